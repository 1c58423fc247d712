// Plain JavaScript without imports from the project: it must run on any Node, however old, to say so in one line.
import { readFileSync } from 'node:fs'

const { engines } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'))
const wanted = engines.node.replace('>=', '').split('.').map(Number)
const found = process.versions.node.split('.').map(Number)
const tooOld = found[0] < wanted[0] || (found[0] === wanted[0] && found[1] < wanted[1])
if (tooOld) {
  console.error(
    `circles-market: Node ${process.versions.node} is too old: this project needs Node ${wanted.join('.')} or later. Install it from https://nodejs.org and run the command again.`,
  )
  process.exit(1)
}
