import type { Command } from 'commander'

/** How the commands of `ops` talk. */
export type Out = {
  json(): boolean
  say(prefix: string, text: string): void
  finish(prefix: string, result: object, text: string): void
}

const AFTER_PUBLISH = `
The file is CSV (.csv) or JSON (.json); - reads JSON from standard input. Columns: sku, name, description, price,
priceCurrency (CRC), category, brand, mpn, gtin13, url, image, requiredSlots, availableDeliveryMethod, fulfillmentTrigger,
payTo, delete. Several values in one cell stand apart by blanks or by |. An image is an http(s) or ipfs URI, or a file
beside the catalog file, at most 8 MiB, which is pinned. JSON may hold whole schema.org Products as well.

Where to: --market, which signs in with the key and pins through its HTTP; else IPFS_RPC_URL (with IPFS_RPC_BEARER), else
IPFS_STORE_DIR, else the store of a running \`npm start\` (MARKET_DATA_DIR). The chain: RPC and NAME_REGISTRY_ADDRESS; when
RPC is not set, the dev chain of \`npm start\`. Over the market its quota of the day counts; ask its operator for more.

What is published already is neither pinned nor signed again. A run that is cut off leaves <file>.publish.jsonl; run it
again and it goes on there.

Examples:
  npm run ops -- catalog publish products.csv --operator 0x5b6c… --pay-to 0x9fe4… --dry-run
  CATALOG_PRIVATE_KEY=… npm run ops -- catalog publish products.csv --operator 0x5b6c… --pay-to 0x9fe4…
  npm run ops -- catalog publish shop.json --operator 0x5b6c… --key file:seller.key --market https://market.example.com --prune
  npm run ops -- catalog publish shop.csv --operator 0x5b6c… --avatar 0xSafe… --list-key --no-register`

const AFTER_VERIFY = `
A CID is fetched, compared with its bytes, held against the rules for pinning and, where it is a link or a chunk of links,
against every rule for links. An avatar is followed from the name registry down to its products. Each thing that is wrong
comes with what to do about it. Where from: as for catalog publish.

Examples:
  npm run ops -- catalog verify 0x9431… --operator 0x5b6c…
  npm run ops -- catalog verify QmPn5F… --market https://market.example.com

Exit codes: 0 all is well, 1 something is wrong, 2 wrong usage.`

/** `catalog publish` and `catalog verify`. What they need is loaded when one of them runs. */
export function addCatalogCommands(ops: Command, out: Out): void {
  const catalog = ops
    .command('catalog')
    .description("Publish a seller's products, or say what is wrong with a catalog.")
  catalog
    .command('publish')
    .description('Publish products from a file: pinned, signed, named in the registry.')
    .argument('<file>', 'CSV or JSON; - reads JSON from standard input')
    .requiredOption('--operator <address>', 'whose market the products are for')
    .option('--chain <id>', 'chain, 100 is Gnosis', '100')
    .option('--key <source>', 'private key: env:NAME, file:PATH or - (standard input)', 'env:CATALOG_PRIVATE_KEY')
    .option('--avatar <address>', "whose catalog, when the key is one that the avatar's profile lists")
    .option('--pay-to <address>', 'payment gateway of products that name none')
    .option('--market <url>', 'pin through this market')
    .option('--profile-name <name>', 'name of the seller, for a first profile')
    .option('--prune', 'take down every published product that the file does not name')
    .option('--strip-exif', 'take out of local pictures what they tell of place, time and camera')
    .option('--dry-run', 'show what would change; nothing is pinned, signed or written')
    .option('--no-register', 'pin and sign, and print the call that makes it public, for a Safe to execute')
    .option('--list-key', "list the key in the avatar's profile, so that it may sign for it")
    .option('--repin', 'pin unchanged products again too, where a store has lost some')
    .option('--start-over', 'begin anew where what is published can not be read; what hung on it is lost')
    .addHelpText('after', AFTER_PUBLISH)
    .action(async (file: string, options: PublishFlags) => {
      const { publishFile } = await import('./publishFile.ts')
      await publishFile(file, options, out)
    })
  catalog
    .command('verify')
    .description('Check a document or a whole catalog, and say in plain words what is wrong and what to do.')
    .argument('<cid|avatar>', 'CID of a document, or address of a seller')
    .option('--operator <address>', "whose market; all of the avatar's namespaces when not given")
    .option('--owner <address>', 'whose namespace a link or chunk is from, to check who may sign in it')
    .option('--chain <id>', 'chain, 100 is Gnosis', '100')
    .option('--market <url>', 'read through this market')
    .addHelpText('after', AFTER_VERIFY)
    .action(async (target: string, options: VerifyFlags) => {
      const { verifyTarget } = await import('./verifyTarget.ts')
      await verifyTarget(target, options, out)
    })
}

export type PublishFlags = {
  operator: string
  chain: string
  key: string
  avatar?: string
  payTo?: string
  market?: string
  profileName?: string
  prune?: boolean
  stripExif?: boolean
  dryRun?: boolean
  register: boolean
  listKey?: boolean
  repin?: boolean
  startOver?: boolean
}

export type VerifyFlags = { operator?: string; owner?: string; chain: string; market?: string }
