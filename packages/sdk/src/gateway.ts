import { type CallOptions, openConnection } from './connection.ts'
import type { ReadDocument } from './verify.ts'

/** Documents from an IPFS gateway, such as `https://ipfs.example`: somebody else than the market that shows the products. */
export function gateway(baseUrl: string, options: CallOptions = {}): ReadDocument {
  const connection = openConnection({ baseUrl })
  // Some would rather give a description of the blocks to whoever asks for JSON.
  const headers = { Accept: '*/*' }
  return async (cid) => (await connection.send({ path: `/ipfs/${cid}`, headers }, options)).bytes
}
