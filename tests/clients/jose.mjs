// npm's `jose`, installed by `make node`, for whoever is in here.
//
// Old Node.js (18) keeps Web Crypto under a module; jose wants it to be global.

import { webcrypto } from 'node:crypto'
import { createRequire } from 'node:module'
import { fileURLToPath, pathToFileURL } from 'node:url'

globalThis.crypto ??= webcrypto

const packages = new URL('../../target/node/package.json', import.meta.url)
const jose = createRequire(fileURLToPath(packages)).resolve('jose')

export const { createLocalJWKSet, jwtVerify, errors } = await import(pathToFileURL(jose))
