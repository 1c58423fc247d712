import { keccak_256 } from '@noble/hashes/sha3.js'
import { bytesToHex, concatBytes, hexToBytes, utf8ToBytes } from '@noble/hashes/utils.js'

/** catalog.md 2.5. */
export const SAFE_DOMAIN_TYPE_HASH = keccakText('EIP712Domain(uint256 chainId,address verifyingContract)')
/** catalog.md 2.5. */
export const SAFE_MESSAGE_TYPE_HASH = keccakText('SafeMessage(bytes message)')

/** One way of asking a contract account whether a signature is its own (catalog.md 2.5). */
export interface SignatureCall {
  path: 'S1' | 'S2' | 'S3'
  /** Calldata for the signer's account, 0x hex. */
  data: string
  /** The first four bytes of a yes, 0x hex; they are also the selector. */
  magic: string
}

/** catalog.md 1.1. */
const LINK_SIGNATURE_MAX_CHARACTERS = 4_096
/** market-api.md W-34: 8 KiB, `0x` not counted. */
export const SIGN_IN_SIGNATURE_MAX_CHARACTERS = 16_386
const WORD = 32
const HEX_BYTES = /^0x([0-9a-fA-F]{2})*$/
/** ERC-1271 in its older form, over the data itself, and in the form that became final, over a hash. */
const IS_VALID_OVER_BYTES = selector('isValidSignature(bytes,bytes)')
const IS_VALID_OVER_HASH = selector('isValidSignature(bytes32,bytes)')

/**
 * What a contract account may call a signature, under a link unless told otherwise (catalog.md 1.1). `0x` stands for a
 * message approved on chain.
 */
export function isContractSignature(signature: string, maxCharacters = LINK_SIGNATURE_MAX_CHARACTERS): boolean {
  return signature.length <= maxCharacters && HEX_BYTES.test(signature)
}

/** The EIP-712 domain of a Safe on a chain, 0x hex; the address may be in any case. */
export function safeDomainSeparator(chainId: number, safe: string): string {
  return keccak(hexToBytes(SAFE_DOMAIN_TYPE_HASH.slice(2)), word(chainId), addressWord(safe))
}

/** `SafeMessage(message)` as an EIP-712 struct, 0x hex: the part of safeMessageHash that no Safe has a say in. */
export function safeMessageStructHash(message: Uint8Array): string {
  return keccak(hexToBytes(SAFE_MESSAGE_TYPE_HASH.slice(2)), keccak_256(message))
}

/** `safeHash(m)` of catalog.md 2.5, 0x hex: what the owners of a Safe sign. */
export function safeMessageHash(chainId: number, safe: string, message: Uint8Array): string {
  const domain = hexToBytes(safeDomainSeparator(chainId, safe).slice(2))
  return keccak(Uint8Array.of(0x19, 0x01), domain, hexToBytes(safeMessageStructHash(message).slice(2)))
}

/**
 * The calls that may prove a contract account's signature, in the NEW order of catalog.md 2.5. Each of them wants
 * another hash signed, so at most one says yes. The signature must pass isContractSignature; it goes out unmodified.
 */
export function signatureCalls(signed: {
  /** The link's canonical text, or the text of a sign-in. */
  preimage: string
  /** What S2 asks about, 0x hex: the link's Keccak-256, or the EIP-191 hash of a sign-in. */
  digest: string
  chainId: number
  /** Address of the account, any case. */
  signer: string
  signature: string
}): SignatureCall[] {
  const { digest, chainId, signer } = signed
  const data = utf8ToBytes(signed.preimage)
  const signature = hexToBytes(signed.signature.slice(2))
  return [
    { path: 'S1', magic: IS_VALID_OVER_BYTES, data: overBytes(data, signature) },
    { path: 'S2', magic: IS_VALID_OVER_HASH, data: overHash(digest, signature) },
    { path: 'S3', magic: IS_VALID_OVER_HASH, data: overHash(safeMessageHash(chainId, signer, data), signature) },
  ]
}

/** ABI encoding: one word per argument, for `bytes` its offset; then the bytes, each with its length before it. */
function overBytes(data: Uint8Array, signature: Uint8Array): string {
  const first = dynamicBytes(data)
  const head = concatBytes(word(2 * WORD), word(2 * WORD + first.length))
  return IS_VALID_OVER_BYTES + bytesToHex(concatBytes(head, first, dynamicBytes(signature)))
}

function overHash(hash: string, signature: Uint8Array): string {
  return (
    IS_VALID_OVER_HASH + bytesToHex(concatBytes(hexToBytes(hash.slice(2)), word(2 * WORD), dynamicBytes(signature)))
  )
}

function dynamicBytes(bytes: Uint8Array): Uint8Array {
  return concatBytes(word(bytes.length), bytes, new Uint8Array(-bytes.length & (WORD - 1)))
}

function word(value: number): Uint8Array {
  return hexToBytes(value.toString(16).padStart(2 * WORD, '0'))
}

function addressWord(address: string): Uint8Array {
  return hexToBytes(address.slice(2).padStart(2 * WORD, '0'))
}

function selector(signature: string): string {
  return keccakText(signature).slice(0, 10)
}

function keccakText(text: string): string {
  return keccak(utf8ToBytes(text))
}

function keccak(...parts: Uint8Array[]): string {
  return `0x${bytesToHex(keccak_256(concatBytes(...parts)))}`
}
