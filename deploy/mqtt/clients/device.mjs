// Asks slmd one question over MQTT 5, with mqtt.js. ../README.md says why each step is as it is.
//
// Usage: node device.mjs mqtts://HOST:PORT DEVICE CLIENT QUESTION
// DEVICE is the appliance's name; CLIENT the client id (`azp`) in the token, and the broker's user name.
//
// SLMD_TOKEN      the access token
// SLMD_DPOP_KEY   a PEM file with the P-256 key that the token is bound to, where it is bound to one
// MQTT_PASSWORD, MQTT_CA_FILE   for the broker
//
// Prints the answer as it comes; fails with the refusal when there is none.

import { createHash, createPrivateKey, createPublicKey, randomUUID, sign } from 'node:crypto';
import { readFileSync } from 'node:fs';
import mqtt from 'mqtt';

const DEADLINE = 120; // seconds in all
const SILENCE = 30; // seconds after which the question is put again
const TRIES = 10;

const [url, device, client, question] = process.argv.slice(2);
const { SLMD_TOKEN: token, SLMD_DPOP_KEY, MQTT_PASSWORD: password, MQTT_CA_FILE } = process.env;
const key = SLMD_DPOP_KEY && createPrivateKey(readFileSync(SLMD_DPOP_KEY));
const sha256 = (...parts) => createHash('sha256').update(Buffer.concat(parts)).digest('base64url');
const now = () => Date.now() / 1000;

const topic = `slm/${device}/v1/chat/completions`;
const nonces = `slm/${device}/nonce`;
const correlation = Buffer.from(randomUUID());
const reply = `slm/${device}/reply/${client}/${correlation}`;
const payload = Buffer.from(JSON.stringify({
  messages: [{ role: 'user', content: question }],
  stream: true,
  temperature: 0,
  max_completion_tokens: 64,
}));

/** A DPoP proof for this message and no other. */
function proof(nonce) {
  const { kty, crv, x, y } = createPublicKey(key).export({ format: 'jwk' });
  const part = (bytes) => {
    const length = Buffer.alloc(4);
    length.writeUInt32BE(bytes.length);
    return Buffer.concat([length, bytes]);
  };
  const header = { typ: 'dpop+jwt', alg: 'ES256', jwk: { kty, crv, x, y } };
  const claims = {
    jti: randomUUID(),
    iat: Math.floor(now()),
    htm: 'PUBLISH',
    htu: `mqtt://${device}/${topic}`,
    ath: sha256(Buffer.from(token)),
    msh: sha256(part(Buffer.from(topic)), part(Buffer.from(reply)), part(correlation), part(payload)),
    nonce,
  };
  const encode = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const input = `${encode(header)}.${encode(claims)}`;
  const signature = sign('sha256', Buffer.from(input), { key, dsaEncoding: 'ieee-p1363' });
  return `${input}.${signature.toString('base64url')}`;
}

const answer = { text: '', shown: '', next: 0, gap: false };

/** Puts the pieces of a stream together, and prints what is new. */
function take(seq, body) {
  // It begins, or begins again.
  if (seq === 0) Object.assign(answer, { text: '', next: 0, gap: false });
  if (seq < answer.next) return; // the broker sent it twice
  answer.gap ||= seq > answer.next;
  answer.next = seq + 1;
  for (const choice of body.choices) answer.text += choice.delta.content ?? '';
  const { text, shown } = answer;
  if (shown.startsWith(text)) return;
  // Another run may have found other words.
  process.stdout.write(text.startsWith(shown) ? text.slice(shown.length) : `\n${text}`);
  answer.shown = text;
}

// mqtt.js connects and subscribes again by itself; so that no answer is lost meanwhile, the broker
// keeps the session for as long as one can come.
const broker = await mqtt.connectAsync(url, {
  protocolVersion: 5,
  clientId: client,
  clean: false,
  properties: { sessionExpiryInterval: DEADLINE },
  ...(password && { username: client, password }),
  ...(MQTT_CA_FILE && { ca: readFileSync(MQTT_CA_FILE) }),
});

const end = now() + DEADLINE;
let [tries, nonce, timer] = [0, undefined, undefined];

function leave(status, said) {
  clearTimeout(timer);
  if (said) console.error(said);
  process.exitCode = status;
  broker.end();
}

/** Publishes the question, in so many seconds at the earliest. */
function ask(wait) {
  clearTimeout(timer);
  timer = setTimeout(() => {
    if (tries++ === TRIES || now() >= end) return leave(1, 'no answer in time');
    const userProperties = key
      ? { authorization: `DPoP ${token}`, dpop: proof(nonce) }
      : { authorization: `Bearer ${token}` };
    // The same Correlation Data each time: it is joined or answered again, never run twice.
    const properties = { responseTopic: reply, correlationData: correlation, userProperties };
    properties.messageExpiryInterval = Math.max(1, Math.floor(end - now()));
    broker.publish(topic, payload, { qos: 1, properties });
    ask(Math.min(SILENCE, end - now()));
  }, wait * 1000);
}

broker.on('message', (from, bytes, { properties }) => {
  // The session may have kept what an earlier question was told.
  if (from !== reply && from !== nonces) return;
  const body = JSON.parse(bytes);
  if (from === nonces) {
    nonce = body.nonce;
    if (tries === 0) ask(0);
    return;
  }
  const user = properties.userProperties;
  if (user.verified === 'false' && answer.next > 0) return; // told to somebody else: ours runs
  if (user.status === '200') {
    take(Number(user.seq), body);
    if (user.final !== 'true') return ask(Math.min(SILENCE, end - now()));
    if (answer.gap) return ask(0); // the whole answer is told again
    process.stdout.write('\n');
    return leave(0);
  }
  if (user['dpop-nonce']) {
    nonce = user['dpop-nonce'];
    return ask(0);
  }
  if (['429', '503'].includes(user.status)) return ask(Number(user['retry-after']));
  leave(1, body.error.message);
});

const granted = await broker.subscribeAsync(key ? [reply, nonces] : [reply], { qos: 1 });
if (granted.some(({ qos }) => qos >= 128)) leave(1, 'the broker denies a subscription');
// The nonce is retained; without one we are told it.
else if (tries === 0) ask(key && !nonce ? 2 : 0);
