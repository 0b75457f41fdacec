// Judges tokens as a resource server with npm's `jose` would: `jose_judge.mjs FILE`.
//
// The file's first line is the configuration, each further one a token as a JSON string. Prints a
// line for each token: `permit`, or the code of jose's refusal.

import { readFileSync } from 'node:fs'
import { createLocalJWKSet, jwtVerify } from './jose.mjs'

const [first, ...lines] = readFileSync(process.argv[2], 'utf8').trimEnd().split('\n')
const { jwks, types, now, ...options } = JSON.parse(first)
const keys = createLocalJWKSet(jwks)
options.currentDate = new Date(now * 1000)

// jose takes one type; here several are good.
async function judge(token) {
  let refusal
  for (const typ of types) {
    try {
      await jwtVerify(token, keys, { ...options, typ })
      return 'permit'
    } catch (error) {
      refusal = error.code ?? error.name
    }
  }
  return refusal
}

for (const line of lines) {
  console.log(await judge(JSON.parse(line)))
}
