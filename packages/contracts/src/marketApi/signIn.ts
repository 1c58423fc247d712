import * as z from 'zod'
import { address, chainId, text, time } from './values.ts'

export const Challenge = z
  .object({
    challengeId: z.uuid(),
    message: text(
      'market.example.com wants you to sign in with your Ethereum account:\n…',
      'What the wallet signs, exactly as it is.',
    ),
    nonce: text('0x00112233445566778899aabbccddeeff'),
    expiresAt: time,
  })
  .meta({ id: 'Challenge' })
export type Challenge = z.infer<typeof Challenge>

export const SignedIn = z
  .object({
    token: text('eyJhbGciOiJFZERTQSIs…', 'For `Authorization: Bearer …`.'),
    expiresIn: z.int().meta({ description: 'Seconds.', examples: [900] }),
    address,
    chainId,
  })
  .meta({ id: 'SignedIn' })
export type SignedIn = z.infer<typeof SignedIn>

export const Jwks = z
  .object({
    keys: z.array(
      z.object({
        kty: z.literal('OKP'),
        crv: z.literal('Ed25519'),
        x: text('11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo'),
        kid: text('kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k'),
        alg: z.literal('EdDSA'),
        use: z.literal('sig'),
      }),
    ),
  })
  .meta({ id: 'Jwks', description: 'The keys that tokens of this market are verified with.' })
export type Jwks = z.infer<typeof Jwks>
