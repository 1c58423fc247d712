// Writes src/contracts.gen.ts, or from another source to another file: compile.mjs <solc> [<source.sol> <target.gen.ts>].
// The compiler is GPL and stays outside the repository: its folder is the first argument.
import { readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { basename, dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

const folder = dirname(fileURLToPath(import.meta.url))
const [
  compiler = '.',
  sourcePath = join(folder, 'DevChain.sol'),
  targetPath = join(folder, '../src/contracts.gen.ts'),
] = process.argv.slice(2)
const solc = createRequire(resolve(compiler, 'package.json'))('solc')
const source = basename(sourcePath)
const { errors = [], contracts } = JSON.parse(
  solc.compile(
    JSON.stringify({
      language: 'Solidity',
      sources: { [source]: { content: readFileSync(sourcePath, 'utf8') } },
      settings: {
        evmVersion: 'shanghai',
        optimizer: { enabled: true, runs: 200 },
        metadata: { bytecodeHash: 'none', appendCBOR: false },
        outputSelection: { '*': { '*': ['abi', 'evm.bytecode.object'] } },
      },
    }),
  ),
)
for (const { formattedMessage } of errors) console.error(formattedMessage)
if (!contracts) process.exit(1)

const declarations = Object.entries(contracts[source])
  .filter(([, { evm }]) => evm.bytecode.object) // an interface has none
  .map(([name, { abi, evm }]) => {
    const functions = abi.map((entry) => `    ${JSON.stringify(entry)},\n`).join('')
    const constant = name[0].toLowerCase() + name.slice(1)
    return `export const ${constant} = {\n  abi: [\n${functions}  ],\n  bytecode: '0x${evm.bytecode.object}',\n} as const\n`
  })
const header = `// Written by contracts/compile.mjs with solc ${solc.version()}; do not edit.\n`
writeFileSync(targetPath, [header, ...declarations].join('\n'))
