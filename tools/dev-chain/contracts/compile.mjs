// Writes src/contracts.gen.ts. The compiler is GPL and stays outside the repository: its folder is the argument.
import { readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { resolve } from 'node:path'

const solc = createRequire(resolve(process.argv[2] ?? '.', 'package.json'))('solc')
const source = 'DevChain.sol'
const { errors = [], contracts } = JSON.parse(
  solc.compile(
    JSON.stringify({
      language: 'Solidity',
      sources: { [source]: { content: readFileSync(new URL(source, import.meta.url), 'utf8') } },
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
writeFileSync(new URL('../src/contracts.gen.ts', import.meta.url), [header, ...declarations].join('\n'))
