import { type Hex, keccak256, stringToHex } from 'viem'
import { privateKeyToAccount } from 'viem/accounts'

/** What everybody may know of the seller that `npm start` makes on the dev chain. */

export const CHAIN_ID = 100
/** Keys of the demo are made from these words and so known to everybody. Development only. */
export const demoKey = (label: string): Hex => keccak256(stringToHex(`circles-market-demo/${label}`))

export const demoSeller = privateKeyToAccount(demoKey('seller')).address.toLowerCase()
export const demoOperator = privateKeyToAccount(demoKey('operator')).address.toLowerCase()
export const DEMO_CODE_SKU = 'gift-code'
/** How many products the seller has. */
export const DEMO_PRODUCTS = 3
