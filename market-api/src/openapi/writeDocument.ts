import { writeFileSync } from 'node:fs'
import { openApiDocument } from './document.ts'

// `npm run openapi`: the document as it is committed, to be read without a market that runs.
const [, , path] = process.argv
if (path === undefined) throw new Error('name the file to write')
writeFileSync(path, `${JSON.stringify(openApiDocument(), null, 2)}\n`)
