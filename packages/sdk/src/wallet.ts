/** Whoever signs in. */
export type Wallet = {
  address: string
  /** The signature of the text in 0x hex: of a plain key by EIP-191, of a contract account whatever that calls one. */
  signMessage(message: string): Promise<string>
}

/**
 * EIP-712 typed data as `signTypedData` of wallet libraries take it. `eth_signTypedData_v4` itself wants the domain's own type
 * among the others, as `EIP712Domain`.
 */
export type SafeMessage = {
  domain: { chainId: number; verifyingContract: `0x${string}` }
  types: { SafeMessage: [{ name: 'message'; type: 'bytes' }] }
  primaryType: 'SafeMessage'
  message: { message: `0x${string}` }
}

/**
 * A Safe that signs in: its owner signs the text as the Safe's message (catalog.md 2.5). Several owners' signatures go
 * joined into one, in the order of their addresses.
 */
export function safeSigner(safe: {
  address: string
  /** The chain the Safe is on. */
  chainId: number
  signTypedData(message: SafeMessage): Promise<string>
}): Wallet {
  const { address, chainId } = safe
  return {
    address,
    signMessage: (message) =>
      safe.signTypedData({
        domain: { chainId, verifyingContract: address as `0x${string}` },
        types: { SafeMessage: [{ name: 'message', type: 'bytes' }] },
        primaryType: 'SafeMessage',
        message: { message: hexOfText(message) },
      }),
  }
}

/** The UTF-8 bytes of a text in 0x hex. */
export const hexOfText = (text: string): `0x${string}` =>
  `0x${Array.from(new TextEncoder().encode(text), (byte) => byte.toString(16).padStart(2, '0')).join('')}`
