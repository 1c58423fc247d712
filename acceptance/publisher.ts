import { mkdir, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import {
  MARKET_CONTEXT,
  PROFILE_CONTEXT,
  productLinkName,
  SCHEMA_ORG_CONTEXT,
  storedDocument,
} from '@market/contracts/catalogDocuments'
import { cidToDigest } from '@market/contracts/cid'
import { insertLinks } from '@market/contracts/insertLinks'
import { type CustomDataLink, signLink } from '@market/contracts/link'
import { devContracts, nameRegistryAbi } from '@market/dev-chain/deployment'
import { Market } from '@market/sdk/market'
import { createPublicClient, createWalletClient, type Hex, http, keccak256, stringToHex } from 'viem'
import { generatePrivateKey, privateKeyToAccount } from 'viem/accounts'

const CHAIN_ID = 100

/** A seller with a key of their own who publishes through the market whatever a test wants, honest or not. */
export async function newSeller(
  market: { marketUrl: string; rpcUrl: string; ipfsStoreDir: string | undefined },
  operator: string,
) {
  const key = generatePrivateKey()
  const account = privateKeyToAccount(key)
  const pins = new Market(market.marketUrl)
  await pins.signIn({ address: account.address, signMessage: (message) => account.signMessage({ message }) }, CHAIN_ID)
  /** Products that are made and not pinned yet. */
  const unpinned = new Map<string, Uint8Array>()
  let nonces = 0

  return {
    address: account.address.toLowerCase(),
    key,

    /** Gives the CID; the product is pinned with the first catalog that follows. */
    async product(sku: string, price: number, payTo: string) {
      const { cid, bytes } = storedDocument({
        '@context': [SCHEMA_ORG_CONTEXT, MARKET_CONTEXT],
        '@type': 'Product',
        name: `The ${sku}`,
        sku,
        offers: [
          {
            '@type': 'Offer',
            price,
            priceCurrency: 'CRC',
            potentialAction: { '@type': 'PayAction', recipient: { '@id': `eip155:${CHAIN_ID}:${payTo}` } },
          },
        ],
      })
      unpinned.set(cid, bytes)
      return cid
    },

    link(sku: string, cid: string, signer: Hex = key): CustomDataLink {
      nonces += 1
      const nonce = keccak256(stringToHex(`${account.address}/${nonces}`)).slice(0, 34)
      return signLink(
        { name: productLinkName(sku), cid, chainId: CHAIN_ID, signedAt: Math.floor(Date.now() / 1000), nonce },
        signer,
      )
    },

    /** Makes these links the seller's namespace and names it in the registry. */
    async publish(links: CustomDataLink[]) {
      const { chunks, index } = insertLinks({}, links)
      const profile = storedDocument({
        '@context': PROFILE_CONTEXT,
        '@type': 'Profile',
        name: 'Test seller',
        namespaces: { [operator]: index.cid },
      })
      for (const bytes of [...unpinned.values(), ...[...chunks, index, profile].map((document) => document.bytes)]) {
        await pins.pin(bytes)
      }
      unpinned.clear()
      const transport = http(market.rpcUrl)
      const hash = await createWalletClient({ account, transport }).writeContract({
        address: devContracts.nameRegistry,
        abi: nameRegistryAbi,
        functionName: 'updateMetadataDigest',
        args: [cidToDigest(profile.cid) as Hex],
        chain: null,
        gasPrice: 0n,
      })
      await createPublicClient({ transport, pollingInterval: 50 }).waitForTransactionReceipt({ hash })
    },

    /** What somebody with access to the disk does: other bytes under the same name, before the market has seen the right ones. */
    async tamper(cid: string, text: string) {
      unpinned.delete(cid)
      const path = join(market.ipfsStoreDir!, cid.slice(-2), cid)
      await mkdir(dirname(path), { recursive: true })
      await writeFile(path, text)
    },
  }
}
