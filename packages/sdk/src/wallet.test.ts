import { expect, it } from 'vitest'
import { hexOfText, safeSigner } from './wallet.ts'

const SAFE = '0x5afe5afe5afe5afe5afe5afe5afe5afe5afe5afe'

// That a real Safe takes such a signature for its own is shown in acceptance/purchase.test.ts.
it('has the owner of a Safe sign the text as a message of that Safe', async () => {
  const signed: unknown[] = []
  const signTypedData = async (message: object) => {
    signed.push(message)
    return '0x51'
  }
  const safe = safeSigner({ address: SAFE, chainId: 10, signTypedData })
  expect([safe.address, await safe.signMessage('é')]).toEqual([SAFE, '0x51'])
  expect(signed).toEqual([
    {
      domain: { chainId: 10, verifyingContract: SAFE },
      types: { SafeMessage: [{ name: 'message', type: 'bytes' }] },
      primaryType: 'SafeMessage',
      message: { message: '0xc3a9' },
    },
  ])
})

it('writes texts as the hex of their bytes', () => {
  for (const text of ['', 'pay_0A', 'één 🧵\n', 'x'.repeat(5000)]) {
    expect(hexOfText(text)).toBe(`0x${Buffer.from(text).toString('hex')}`)
  }
})
