// Prints each YAML file that it is given as JSON, a line each.

import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'

const packages = new URL('../../target/node/package.json', import.meta.url)
const yaml = createRequire(fileURLToPath(packages))('js-yaml')

for (const file of process.argv.slice(2)) {
  console.log(JSON.stringify(yaml.load(readFileSync(file, 'utf8'))))
}
