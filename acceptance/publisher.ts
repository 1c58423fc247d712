import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import {
  MARKET_CONTEXT,
  PROFILE_CONTEXT,
  productLinkName,
  SCHEMA_ORG_CONTEXT,
  storedDocument,
} from '@market/contracts/catalogDocuments'
import { cidToDigest } from '@market/contracts/cid'
import { type CustomDataLink, signLink } from '@market/contracts/link'
import { appendLink, appendToIndex } from '@market/contracts/namespaceWalk'
import { devContracts, nameRegistryAbi } from '@market/dev-chain/deployment'
import { openIpfs } from '@market/market-api/ops'
import { createPublicClient, createWalletClient, type Hex, http, keccak256, stringToHex } from 'viem'
import { generatePrivateKey, privateKeyToAccount } from 'viem/accounts'

/** A seller with a key of their own who publishes whatever a test wants, honest or not. */
export async function newSeller(market: { rpcUrl: string; ipfsStoreDir: string | undefined }, operator: string) {
  const key = generatePrivateKey()
  const account = privateKeyToAccount(key)
  const store = await openIpfs({
    IPFS_RPC_URL: undefined,
    IPFS_RPC_BEARER: undefined,
    IPFS_STORE_DIR: market.ipfsStoreDir!,
    IPFS_TIMEOUT_MS: 1000,
  })
  let nonces = 0

  const put = async (document: object) => {
    const { cid, bytes } = storedDocument(document)
    await store.put(bytes)
    return cid
  }
  return {
    address: account.address.toLowerCase(),
    key,

    product: (sku: string, price: number, payTo: string) =>
      put({
        '@context': [SCHEMA_ORG_CONTEXT, MARKET_CONTEXT],
        '@type': 'Product',
        name: `The ${sku}`,
        sku,
        offers: [
          {
            '@type': 'Offer',
            price,
            priceCurrency: 'CRC',
            potentialAction: { '@type': 'PayAction', recipient: { '@id': `eip155:100:${payTo}` } },
          },
        ],
      }),

    link(sku: string, cid: string, signer: Hex = key): CustomDataLink {
      nonces += 1
      const nonce = keccak256(stringToHex(`${account.address}/${nonces}`)).slice(0, 34)
      return signLink(
        { name: productLinkName(sku), cid, chainId: 100, signedAt: Math.floor(Date.now() / 1000), nonce },
        signer,
      )
    },

    /** Makes these links the seller's namespace and names it in the registry. */
    async publish(links: CustomDataLink[]) {
      let head: Parameters<typeof appendLink>[0]
      let index: ReturnType<typeof appendToIndex> | undefined
      for (const link of links) {
        const appended = appendLink(head, link)
        head = appended.head
        index = appendToIndex(index?.document, appended)
      }
      await store.put(head!.bytes)
      await store.put(index!.bytes)
      const profileCid = await put({
        '@context': PROFILE_CONTEXT,
        '@type': 'Profile',
        name: 'Test seller',
        namespaces: { [operator]: index!.cid },
      })
      const transport = http(market.rpcUrl)
      const hash = await createWalletClient({ account, transport }).writeContract({
        address: devContracts.nameRegistry,
        abi: nameRegistryAbi,
        functionName: 'updateMetadataDigest',
        args: [cidToDigest(profileCid) as Hex],
        chain: null,
        gasPrice: 0n,
      })
      await createPublicClient({ transport, pollingInterval: 50 }).waitForTransactionReceipt({ hash })
    },

    /** What somebody with access to the disk does: other bytes under the same name. */
    tamper: (cid: string, text: string) => writeFile(join(market.ipfsStoreDir!, cid.slice(-2), cid), text),
  }
}
