// Decisions a second of npm's jose, on the token that the bench wrote: `jose.mjs FILE`.
//
// Keys are imported once, as a resource server would; each decision checks the signature, issuer,
// audience, type and times.

import { readFileSync } from 'node:fs'
import { createLocalJWKSet, jwtVerify } from '../clients/jose.mjs'

const SECONDS = 1.0
const subject = JSON.parse(readFileSync(process.argv[2], 'utf8'))
const keys = createLocalJWKSet(subject.jwks)
const options = {
  algorithms: [subject.alg],
  issuer: subject.issuer,
  audience: subject.audience,
  typ: 'JWT',
  clockTolerance: 30,
  requiredClaims: ['iss', 'sub', 'azp', 'aud', 'iat', 'exp'],
  currentDate: new Date(subject.now * 1000),
}

const decide = () => jwtVerify(subject.token, keys, options)

// The first ones warm the compiler up.
for (let i = 0; i < 500; i++) await decide()
let calls = 0
const start = performance.now()
while (performance.now() - start < 1000 * SECONDS) {
  for (let i = 0; i < 16; i++) await decide()
  calls += 16
}
console.log((1000 * calls) / (performance.now() - start))
