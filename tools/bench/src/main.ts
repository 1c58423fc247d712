import { benchBuyer } from './buyer.ts'
import { benchCatalog } from './catalog.ts'
import { benchFulfillment } from './fulfillment.ts'
import { benchPayments } from './payments.ts'

// `npm run bench [-- <name> …] [--soak <minutes>]`: figures with medians, on whatever machine this is.
const benches: Record<string, (options: { soakMinutes: number; sizes: number[] | undefined }) => Promise<void>> = {
  catalog: benchCatalog,
  buyer: benchBuyer,
  payments: benchPayments,
  fulfillment: benchFulfillment,
}

const args = process.argv.slice(2)
const soak = args.indexOf('--soak')
const soakMinutes = soak === -1 ? 0 : Number(args.splice(soak, 2)[1])
const at = args.indexOf('--orders')
const sizes = at === -1 ? undefined : args.splice(at, 2)[1]?.split(',').map(Number)
const names = args.length > 0 ? args : Object.keys(benches)
const unknown = names.filter((name) => !(name in benches))
if (args.includes('--help') || unknown.length > 0 || !(soakMinutes >= 0) || sizes?.some((size) => !(size >= 0))) {
  console.log(`npm run bench [-- name …] [--soak minutes] [--orders n,n…]\n\nNames: ${Object.keys(benches).join(', ')}. Without a name, all of them.
--soak adds minutes of steady load during which memory is watched.
--orders says with how many orders in the database the buyer's API is measured, 0,100000,1000000 without it; payments with the
last of them, a million without it.`)
  process.exit(args.includes('--help') ? 0 : 2)
}
for (const name of names) await benches[name]!({ soakMinutes, sizes })
