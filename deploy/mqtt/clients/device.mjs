// Asks slmd one question over MQTT 5, with mqtt.js. ../README.md says why each step is as it is.
//
// Usage: node device.mjs [--device-key X] mqtts://HOST:PORT DEVICE CLIENT QUESTION
// DEVICE is the appliance's name; CLIENT the client id (`azp`) in the token, and the broker's user name.
// X is the appliance's public key, as `slmd device id` shows it: what it hasn't signed counts for nothing.
//
// SLMD_TOKEN      the access token
// SLMD_DPOP_KEY   a PEM file with the P-256 key that the token is bound to, where it is bound to one
// MQTT_PASSWORD, MQTT_CA_FILE   for the broker
//
// Prints the answer as it comes; fails with the refusal when there is none.

import { createHash, createPrivateKey, createPublicKey, randomUUID, sign, verify } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { isDeepStrictEqual, parseArgs } from 'node:util';
import mqtt from 'mqtt';

const DEADLINE = 120; // seconds in all
const SILENCE = 30; // seconds after which the question is put again
const TRIES = 10;

const { values: options, positionals } = parseArgs({
  options: { 'device-key': { type: 'string' } },
  allowPositionals: true,
});
const [url, device, client, question] = positionals;
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

const part = (bytes) => {
  const length = Buffer.alloc(4);
  length.writeUInt32BE(bytes.length);
  return Buffer.concat([length, bytes]);
};
// What a proof, and the signature of an answer, name the question by.
const msh = sha256(...[Buffer.from(topic), Buffer.from(reply), correlation, payload].map(part));

/** A DPoP proof for this message and no other. */
function proof(nonce) {
  const { kty, crv, x, y } = createPublicKey(key).export({ format: 'jwk' });
  const header = { typ: 'dpop+jwt', alg: 'ES256', jwk: { kty, crv, x, y } };
  const claims = {
    jti: randomUUID(),
    iat: Math.floor(now()),
    htm: 'PUBLISH',
    htu: `mqtt://${device}/${topic}`,
    ath: sha256(Buffer.from(token)),
    msh,
    nonce,
  };
  const encode = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const input = `${encode(header)}.${encode(claims)}`;
  const signature = sign('sha256', Buffer.from(input), { key, dsaEncoding: 'ieee-p1363' });
  return `${input}.${signature.toString('base64url')}`;
}

const jwk = { kty: 'OKP', crv: 'Ed25519', x: options['device-key'] };
const deviceKey = jwk.x && createPublicKey({ key: jwk, format: 'jwk' });
let telling; // the answer whose pieces are taken

/** Whether the appliance has said this of our question. */
function isSigned({ signature, ...said }, bytes) {
  const [header, claims, mark] = String(signature).split('.');
  const input = Buffer.from(`${header}.${claims}`);
  if (!mark || !verify(null, input, deviceKey, Buffer.from(mark, 'base64url'))) return false;
  const read = (text) => JSON.parse(Buffer.from(text, 'base64url'));
  const { alg, typ } = read(header);
  const { answer: id, ...rest } = read(claims);
  // All that it says stands in the signature, and nothing else does.
  const all = { ...said, body: sha256(bytes), device, msh };
  if (alg !== 'EdDSA' || typ !== 'slmd-answer+jwt' || !isDeepStrictEqual(rest, all)) return false;
  if (said.seq === '0' && said.status === '200') telling = id;
  return said.seq === '0' || id === telling;
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
  if (from === nonces) {
    nonce = JSON.parse(bytes).nonce;
    if (tries === 0) ask(0);
    return;
  }
  const user = { ...properties?.userProperties };
  if (deviceKey && !isSigned(user, bytes)) {
    console.error(`dropped: not signed by ${device} as an answer to this`);
    return;
  }
  const body = JSON.parse(bytes);
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
