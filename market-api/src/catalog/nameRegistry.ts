import { BaseError, createPublicClient, type Hex, http, parseAbi } from 'viem'

/** Which profile each avatar names on chain (catalog.md 3.2). */
export type NameRegistry = {
  /** Metadata digests as `0x` + 64 hex, all zero = no profile, read at one block. */
  readDigests(avatars: string[]): Promise<{ block: bigint; digests: Map<string, string> }>
}

export class NameRegistryError extends Error {}

const abi = parseAbi(['function getMetadataDigest(address) view returns (bytes32)'])

/** Reads the registry contract; all avatars in one JSON-RPC batch at one block, so that they belong together. */
export function connectNameRegistry(rpcUrl: string, address: string, timeoutMs: number): NameRegistry {
  const client = createPublicClient({
    transport: http(rpcUrl, { batch: { batchSize: 500 }, timeout: timeoutMs, retryCount: 1 }),
  })
  return {
    async readDigests(avatars) {
      try {
        const blockNumber = await client.getBlockNumber({ cacheTime: 0 })
        const entries = await Promise.all(
          avatars.map(async (avatar) => {
            const digest = await client.readContract({
              address: address as Hex,
              abi,
              functionName: 'getMetadataDigest',
              args: [avatar as Hex],
              blockNumber,
            })
            return [avatar, digest.toLowerCase()] as const
          }),
        )
        return { block: blockNumber, digests: new Map(entries) }
      } catch (error) {
        // viem's messages run over a page and repeat the URL, which may hold a key.
        const reason = error instanceof BaseError ? error.shortMessage : 'no answer'
        throw new NameRegistryError(`name registry ${address}: ${reason}`)
      }
    },
  }
}
