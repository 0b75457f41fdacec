// An AsyncAPI 3.0 document, judged by the specification's own JSON schema, and messages judged by the
// document.
//
// Usage: asyncapi.mjs DOCUMENT, with a message a line on standard input: {topic, headers, payload},
// absent members being absent. Fails where the document isn't valid or refers to what isn't there.
// Prints {document, messages}: the document as JSON, and for each message the names of those of its
// channel that it is, or why it is none.

import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'

const packages = new URL('../../target/node/package.json', import.meta.url)
const require = createRequire(fileURLToPath(packages))
const Ajv = require('ajv').default
const formats = require('ajv-formats').default
const yaml = require('js-yaml')

const ajv = (options) => formats(new Ajv({ strict: false, ...options }))

const document = yaml.load(readFileSync(process.argv[2], 'utf8'))
const specification = require('@asyncapi/specs/schemas/3.0.0.json')
// It brings the schema of schemas, which ajv has too.
const isValid = ajv({ meta: false, validateSchema: false }).compile(specification)
if (!isValid(document)) throw new Error(`no AsyncAPI 3.0: ${JSON.stringify(isValid.errors)}`)

function at(reference) {
  const path = reference.replace(/^#\//, '').split('/')
  return path.reduce((value, name) => value?.[name], document)
}

function followed(value) {
  if (value === null || typeof value !== 'object') return
  const { $ref: reference } = value
  if (reference !== undefined && at(reference) === undefined) {
    throw new Error(`nothing is at ${reference}`)
  }
  Object.values(value).forEach(followed)
}
followed(document)

const schemas = ajv().addSchema({ $id: 'document', components: document.components })

/** The channel with the most levels that are written out. */
function channelOf(topic) {
  const written = ({ address }) => address.split('/').filter((level) => !level.startsWith('{')).length
  const matches = ({ address }) =>
    new RegExp(`^${address.replace(/\{name\}/g, '.+').replace(/\{\w+\}/g, '[^/]+')}$`).test(topic)
  const found = Object.values(document.channels).filter(matches)
  return found.sort((a, b) => written(b) - written(a))[0]
}

function judged({ topic, headers, payload }) {
  const channel = channelOf(topic)
  if (!channel) return { errors: `no channel for ${topic}` }
  const errors = []
  const names = Object.values(channel.messages).map(({ $ref: reference }) => {
    const message = at(reference)
    const judge = (part, value) => {
      if (message[part] === undefined) return value === undefined
      const is = schemas.compile({ $ref: `document${reference}/${part}` })
      return is(value) || !errors.push({ reference, part, errors: is.errors })
    }
    return judge('headers', headers) && judge('payload', payload) && reference.split('/').at(-1)
  })
  const is = names.filter(Boolean)
  return is.length > 0 ? { is } : { errors }
}

const lines = readFileSync(0, 'utf8').split('\n').filter(Boolean)
const messages = lines.map((line) => judged(JSON.parse(line)))
console.log(JSON.stringify({ document, messages }))
