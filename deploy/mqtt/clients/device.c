/* Asks slmd one question over MQTT 3.1.1, with libmosquitto and cJSON. ../README.md says why each
 * step is as it is.
 *
 *   cc -std=c11 -O2 -Wall -o device device.c -lmosquitto -lcjson
 *   SLMD_TOKEN=... ./device HOST PORT DEVICE CLIENT QUESTION
 *
 * DEVICE is the appliance's name; CLIENT the client id (`azp`) in the token, and the broker's user
 * name. MQTT_PASSWORD and MQTT_CA_FILE are for the broker; with the latter it speaks TLS.
 *
 * Prints the answer as it comes; fails with the refusal when there is none. MQTT 3.1.1 has no place
 * for a DPoP proof: a token that is bound to a key needs MQTT 5. */

#define _POSIX_C_SOURCE 200809L
#include <cjson/cJSON.h>
#include <mosquitto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { DEADLINE = 120, SILENCE = 30, TRIES = 10 }; /* seconds, seconds, questions */

static char topic[640], replies[640], text[1 << 16];
static char *payload;
static size_t shown; /* bytes of `text` that are printed */
static int next, gap;
static time_t due;
static int status = -1; /* what the program ends with; -1: not yet */

static time_t now(void) {
  struct timespec at;
  clock_gettime(CLOCK_MONOTONIC, &at);
  return at.tv_sec;
}

static _Noreturn void fail(const char *what) {
  fprintf(stderr, "%s\n", what);
  exit(1);
}

static int number(const cJSON *object, const char *name, int otherwise) {
  const cJSON *value = cJSON_GetObjectItemCaseSensitive(object, name);
  return cJSON_IsNumber(value) ? value->valueint : otherwise;
}

static const char *string(const cJSON *object, const char *name) {
  const char *value = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, name));
  return value ? value : "";
}

/* Puts the pieces of a stream together, and prints what is new. */
static void take(int seq, const cJSON *body) {
  static size_t length;
  const cJSON *choice;
  if (seq == 0) /* it begins, or begins again */
    next = gap = 0, length = 0;
  if (seq < next) /* the broker sent it twice */
    return;
  gap |= seq > next;
  next = seq + 1;
  cJSON_ArrayForEach(choice, cJSON_GetObjectItemCaseSensitive(body, "choices")) {
    const char *piece = string(cJSON_GetObjectItemCaseSensitive(choice, "delta"), "content");
    size_t more = strlen(piece);
    if (more >= sizeof text - length)
      fail("the answer is too long for this program");
    size_t known = length < shown ? shown - length : 0;
    if (memcmp(text + length, piece, known < more ? known : more) != 0) {
      putchar('\n'); /* another run found other words */
      shown = 0;
    }
    memcpy(text + length, piece, more);
    length += more;
    if (length > shown) {
      fwrite(text + shown, 1, length - shown, stdout);
      fflush(stdout);
      shown = length;
    }
  }
}

static void on_connect(struct mosquitto *broker, void *data, int code) {
  (void)data;
  if (code != 0)
    fail(mosquitto_connack_string(code));
  mosquitto_subscribe(broker, NULL, replies, 1); /* again after each reconnect */
}

static void on_subscribe(struct mosquitto *broker, void *data, int id, int count, const int *qos) {
  (void)broker, (void)data, (void)id;
  if (count != 1 || qos[0] > 2)
    fail("the broker denies the subscription");
  if (due == 0)
    due = now();
}

static void on_message(struct mosquitto *broker, void *data, const struct mosquitto_message *message) {
  (void)broker, (void)data;
  /* The session may have kept what an earlier question was told. */
  if (strncmp(message->topic, replies, strlen(replies) - 1) != 0)
    return;
  cJSON *envelope = cJSON_ParseWithLength(message->payload, (size_t)message->payloadlen);
  const cJSON *body = cJSON_GetObjectItemCaseSensitive(envelope, "body");
  int code = number(envelope, "status", 0);
  int final = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(envelope, "final"));
  int stranger = cJSON_IsFalse(cJSON_GetObjectItemCaseSensitive(envelope, "verified"));
  if (stranger && next > 0) {
    /* told to somebody else: ours runs */
  } else if (code == 200) {
    take(number(envelope, "seq", 0), body);
    due = now() + SILENCE;
    if (final && gap)
      due = now(); /* the whole answer is told again */
    else if (final)
      status = putchar('\n') == '\n' ? 0 : 1;
  } else if (code == 429 || code == 503) {
    due = now() + number(envelope, "retry_after", 1);
  } else {
    const cJSON *error = cJSON_GetObjectItemCaseSensitive(body, "error");
    fprintf(stderr, "%s\n", string(error, "message"));
    status = 1;
  }
  cJSON_Delete(envelope);
}

/* The question as a body with the token, which has no other place here. */
static char *question(const char *token, const char *text) {
  char bearer[20000];
  if (snprintf(bearer, sizeof bearer, "Bearer %s", token) >= (int)sizeof bearer)
    fail("the token is too long");
  cJSON *body = cJSON_CreateObject();
  cJSON_AddStringToObject(body, "authorization", bearer);
  cJSON *message = cJSON_CreateObject();
  cJSON_AddStringToObject(message, "role", "user");
  cJSON_AddStringToObject(message, "content", text);
  cJSON_AddItemToArray(cJSON_AddArrayToObject(body, "messages"), message);
  cJSON_AddTrueToObject(body, "stream");
  cJSON_AddNumberToObject(body, "temperature", 0);
  cJSON_AddNumberToObject(body, "max_completion_tokens", 64);
  char *printed = cJSON_PrintUnformatted(body);
  cJSON_Delete(body);
  return printed ? printed : (fail("no memory"), NULL);
}

int main(int argc, char **argv) {
  const char *token = getenv("SLMD_TOKEN");
  const char *password = getenv("MQTT_PASSWORD"), *ca = getenv("MQTT_CA_FILE");
  if (argc != 6 || token == NULL)
    fail("usage: SLMD_TOKEN=... device HOST PORT DEVICE CLIENT QUESTION");
  const char *device = argv[3], *client = argv[4];
  /* One question of this client: the same id each time it is put, so that it is joined or answered
   * again, never run twice. */
  struct timespec at;
  clock_gettime(CLOCK_REALTIME, &at);
  snprintf(topic, sizeof topic, "slm/%s/v1/chat/completions/%s/%lld-%ld", device, client,
           (long long)at.tv_sec, at.tv_nsec);
  snprintf(replies, sizeof replies, "slm/%s/reply/%s/%lld-%ld/+", device, client,
           (long long)at.tv_sec, at.tv_nsec);
  payload = question(token, argv[5]);

  mosquitto_lib_init();
  struct mosquitto *broker = mosquitto_new(client, false, NULL); /* the broker keeps our session */
  if (broker == NULL)
    fail("no memory");
  if (password && mosquitto_username_pw_set(broker, client, password) != MOSQ_ERR_SUCCESS)
    fail("the user name or password can't be sent");
  if (ca && mosquitto_tls_set(broker, ca, NULL, NULL, NULL, NULL) != MOSQ_ERR_SUCCESS)
    fail("the CA's certificate can't be read");
  mosquitto_connect_callback_set(broker, on_connect);
  mosquitto_subscribe_callback_set(broker, on_subscribe);
  mosquitto_message_callback_set(broker, on_message);
  int failed = mosquitto_connect(broker, argv[1], atoi(argv[2]), 30);
  if (failed != MOSQ_ERR_SUCCESS)
    fail(mosquitto_strerror(failed));

  time_t end = now() + DEADLINE;
  for (int tries = 0; status < 0 && now() < end;) {
    if (due != 0 && now() >= due) {
      if (tries++ == TRIES)
        break;
      mosquitto_publish(broker, NULL, topic, (int)strlen(payload), payload, 1, false);
      due = now() + SILENCE;
    }
    if (mosquitto_loop(broker, 1000, 1) != MOSQ_ERR_SUCCESS) {
      struct timespec second = {1, 0};
      nanosleep(&second, NULL);
      mosquitto_reconnect(broker);
    }
  }
  if (status < 0)
    fprintf(stderr, "no answer in time\n");
  mosquitto_unsubscribe(broker, NULL, replies);
  mosquitto_disconnect(broker);
  mosquitto_destroy(broker);
  mosquitto_lib_cleanup();
  free(payload);
  return status == 0 ? 0 : 1;
}
