import { benchCatalog } from './catalog.ts'

// `npm run bench [-- <name> …] [--soak <minutes>]`: figures with medians, on whatever machine this is.
const benches: Record<string, (options: { soakMinutes: number }) => Promise<void>> = { catalog: benchCatalog }

const args = process.argv.slice(2)
const soak = args.indexOf('--soak')
const soakMinutes = soak === -1 ? 0 : Number(args.splice(soak, 2)[1])
const names = args.length > 0 ? args : Object.keys(benches)
const unknown = names.filter((name) => !(name in benches))
if (args.includes('--help') || unknown.length > 0 || !(soakMinutes >= 0)) {
  console.log(`npm run bench [-- name …] [--soak minutes]\n\nNames: ${Object.keys(benches).join(', ')}. Without a name, all of them.
--soak adds minutes of steady load during which memory is watched.`)
  process.exit(args.includes('--help') ? 0 : 2)
}
for (const name of names) await benches[name]!({ soakMinutes })
