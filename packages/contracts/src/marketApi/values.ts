import * as z from 'zod'

/** What the answers are made of. Each text has an example: the API reference shows answers made of them. */

/** A text of no particular form. */
export const text = (example: string, description?: string) =>
  z.string().meta({ ...(description === undefined ? {} : { description }), examples: [example] })

/** A text of this form, which the example has. */
export const formed = (form: RegExp, example: string, description?: string) =>
  z
    .string()
    .regex(form)
    .meta({ ...(description === undefined ? {} : { description }), examples: [example] })

const SELLER = '0x943186fbcfd74fd575bcf9aa76a53f56b2f06aba'
export const address = formed(/^0x[0-9a-f]{40}$/, SELLER).meta({ id: 'Address', description: 'In lower case.' })
export const eip155 = formed(/^eip155:[0-9]+:0x[0-9a-f]{40}$/, `eip155:100:${SELLER}`)
export const orderId = formed(/^ord_[0-9A-F]{32}$/, 'ord_5B1F0A3C9D7E4F628A41C0DE77B2936E')
export const basketId = formed(/^bkt_[0-9a-f]{32}$/, 'bkt_0c9f6b7d2e5a41f38d24ab6601c7e95f')
export const paymentReference = formed(
  /^pay_[0-9A-F]{32}$/,
  'pay_E2A94C70B1D84B6F9A3C5D1E6F208B47',
  'Goes into the data of the transfer that pays the order.',
)
export const digest = formed(/^0x[0-9a-f]{64}$/, `0x${'3f9c'.repeat(16)}`)
export const cid = text('QmPGULpvvyrXxZVzaub4v3TaMQoKg4LsuXeCdYtXQFqD7u')
export const sku = text('tee-black')
export const currency = text('CRC')
export const time = z.iso.datetime()
export const seconds = z.int().meta({ description: 'Unix seconds.', examples: [1_798_761_600] })
export const chainId = z.int().meta({ examples: [100] })
export const quantity = z.int().positive()
export const price = z.number().meta({ description: 'Of one piece; exact as a decimal.', examples: [19.5] })
export const orderedProduct = z.object({ '@type': z.literal('Product'), sku, name: text('Black tee') })
export const imageUrl = text('https://shop.example.com/tee.webp', 'As the client set it.').nullable()
export const nextCursor = text('MTc5ODc2MTYwMDAwMDAwMC5vcmRfNUIx', 'For `cursor`; absent on the last page.').optional()
