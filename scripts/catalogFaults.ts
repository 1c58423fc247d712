/** What is wrong, in a sentence for a seller, and what to do about it. */
export type Explanation = { text: string; remedy: string }

const PUBLISH = 'publish the product again: npm run ops -- catalog publish'
const REPIN = 'publish the catalog again, which pins what is missing: npm run ops -- catalog publish --repin'
const HARMLESS = 'nothing: it does no harm'

/** By the codes of catalog.md 2.8, 4.4 and 4.6, and some that only this command tells apart. */
const EXPLANATIONS: Record<string, Explanation> = {
  UNAVAILABLE: {
    text: 'it can not be had: the store has not got it, or does not answer',
    remedy: `make the store reachable, or ${REPIN}`,
  },
  CID_MISMATCH: {
    text: 'the store holds other bytes than the CID names: they were damaged or tampered with, and no market believes them',
    remedy: REPIN,
  },
  TOO_LARGE: { text: 'it is larger than 8 MiB, and nobody reads that', remedy: 'publish something smaller' },
  MALFORMED: {
    text: 'it is no JSON as the catalog takes it',
    remedy: 'have it written again: catalog publish --start-over',
  },
  BROKEN_DOCUMENT: {
    text: 'it breaks a rule for documents of its kind',
    remedy: 'have it written again: catalog publish --start-over',
  },
  NOT_PINNABLE: {
    text: 'no market would pin it, because it breaks a rule',
    remedy: 'correct the member that is named and pin it again',
  },
  NO_PROFILE: {
    text: 'the name registry names no profile for this avatar, so it has no catalog',
    remedy: 'publish one: npm run ops -- catalog publish',
  },
  NO_NAMESPACE: {
    text: 'the profile has no namespace for this operator, so the operator lists nothing of it',
    remedy: 'publish for this operator: catalog publish --operator, or check the address',
  },
  NAMESPACE_KEY: {
    text: 'the operator is written with capitals in the profile, and readers look for small letters only',
    remedy: 'publish again: catalog publish writes the address as it is looked for',
  },
  TOO_MANY_CHUNKS: {
    text: 'the namespace is longer than any market reads (5,000 chunks); what lies further down is not seen',
    remedy: 'publish the whole catalog anew: catalog publish --start-over',
  },
  SHAPE: { text: 'a member of the link is missing or of the wrong kind', remedy: PUBLISH },
  ENVELOPE: {
    text: "the link's @context, @type or members about encryption are not those of a link",
    remedy: PUBLISH,
  },
  CHAIN: { text: 'the link was signed for another chain, and counts on that one only', remedy: `${PUBLISH} --chain` },
  WINDOW: {
    text: 'the link carries a date in the future and does not count before that day',
    remedy:
      'set the clock of the machine that signs right and publish again; markets take dates up to 30 seconds ahead',
  },
  NONCE: { text: 'the nonce is not 16 bytes in small hex digits', remedy: PUBLISH },
  SIG_SHAPE: { text: 'the signature is not hex of an allowed length; for a key it has 65 bytes', remedy: PUBLISH },
  SIG_VALUE: { text: 'the numbers in the signature are outside the curve: no key made it', remedy: PUBLISH },
  SIG_V: {
    text: "the signature's last byte is neither 27 nor 28",
    remedy: 'sign with a library that writes v as 27 or 28',
  },
  HIGH_S: {
    text: 'the signature is the second form of a valid one (high s), which anybody could make from it',
    remedy: 'sign with a library that gives low s',
  },
  SIGNER: {
    text: 'the signature is not of the account that the link names: it was signed with another key, signed in another way (such as personal_sign), or changed afterwards',
    remedy: `sign the bare digest with the key of that account; ${PUBLISH} does`,
  },
  UNVERIFIED: {
    text: 'the chain did not say whether the account accepts the signature',
    remedy: 'set RPC to a node that answers, and check again',
  },
  CRITICAL_EXTENSION: {
    text: 'the link demands an extension that no market implements',
    remedy: 'sign it without criticalExtensions',
  },
  SIGNER_NOT_OWNER: {
    text: 'the link was signed by somebody else than the seller: a copy of another seller’s product does not count, whoever lists it',
    remedy: 'sign products with the key of the seller, or list the key in the profile: catalog publish --list-key',
  },
  SIGNING_KEY: {
    text: 'the profile lists the key, but not for the time at which the link was signed: before it was valid, after it ran out, or after it was revoked',
    remedy: 'sign again with a key that is valid now',
  },
  NONCE_REPLAY: {
    text: 'a newer link of the same signer uses the same nonce',
    remedy: `${PUBLISH}: every link has a nonce of its own`,
  },
  DUPLICATE_LINK: { text: 'the same link stands in the namespace twice', remedy: HARMLESS },
  NOT_A_PRODUCT_NAME: { text: 'the link is not for a product', remedy: HARMLESS },
  NOT_A_PRODUCT: { text: 'the link leads to something that is neither a product nor a tombstone', remedy: PUBLISH },
  PAYLOAD_UNAVAILABLE: {
    text: 'the product can not be had from the store, so it is not listed, and no older version is shown in its place',
    remedy: `make the store reachable, or ${REPIN}`,
  },
  PAYLOAD_REFUSED: {
    text: 'the product is larger than 8 MiB',
    remedy: 'publish it with less text; pictures belong into image',
  },
  PAYLOAD_MALFORMED: { text: 'the product is no JSON as the catalog takes it', remedy: PUBLISH },
  PAYLOAD_INVALID: {
    text: 'the product breaks a rule',
    remedy: 'correct the member that is named, and publish it again',
  },
  TYPE: { text: 'the link leads to a document that does not say what it is', remedy: PUBLISH },
  SKU_MISMATCH: { text: 'the product has another sku than the link that leads to it', remedy: PUBLISH },
}

export function explain(code: string): Explanation {
  return EXPLANATIONS[code] ?? { text: `it fails the check ${code}`, remedy: PUBLISH }
}

/** The checks of catalog.md 2.8 for one link in their order, each with the codes that end it. */
export const LINK_CHECKS: readonly { what: string; codes: readonly string[] }[] = [
  { what: 'all members are there, each of the right kind', codes: ['SHAPE'] },
  { what: 'it says that it is a link, in clear', codes: ['ENVELOPE'] },
  { what: 'it is for this chain', codes: ['CHAIN'] },
  { what: 'its date is not in the future', codes: ['WINDOW'] },
  { what: 'its nonce is well formed', codes: ['NONCE'] },
  { what: 'its signature has the right length', codes: ['SIG_SHAPE'] },
  { what: 'its signature is one of the curve, in its one allowed form', codes: ['SIG_VALUE', 'SIG_V', 'HIGH_S'] },
  { what: 'the account it names has signed it', codes: ['SIGNER', 'UNVERIFIED'] },
  { what: 'it demands nothing that is unknown', codes: ['CRITICAL_EXTENSION'] },
  { what: 'the signer may sign in this namespace', codes: ['SIGNER_NOT_OWNER', 'SIGNING_KEY'] },
]
