import { afterAll, beforeAll, expect, it } from 'vitest'
import { type Chain, free, mined, startChain } from '../test/chain.ts'
import { deployDevContracts, devContracts, gatewayFactoryAbi, nameRegistryAbi } from './deployment.ts'

let chain: Chain
beforeAll(async () => (chain = await startChain()))
afterAll(() => chain.stop())

const registry = { address: devContracts.nameRegistry, abi: nameRegistryAbi } as const
const factory = { address: devContracts.gatewayFactory, abi: gatewayFactoryAbi } as const

it('deploys once, however often it is asked', async () => {
  expect(await deployDevContracts(chain.url)).toBe('deployed')
  const head = await chain.head()
  expect(await deployDevContracts(chain.url)).toBe('already deployed')
  expect(await chain.head()).toBe(head)
  expect(await chain.client.readContract({ ...factory, functionName: 'hub' })).toMatch(
    new RegExp(devContracts.hub, 'i'),
  )
})

it('lets a wallet without money publish its profile digest', async () => {
  const wallet = chain.newWallet()
  const digest = `0x${'5a'.repeat(32)}` as const
  await mined(
    wallet,
    wallet.writeContract({ ...registry, functionName: 'updateMetadataDigest', args: [digest], ...free }),
  )
  const read = (avatar: `0x${string}`) =>
    chain.client.readContract({ ...registry, functionName: 'getMetadataDigest', args: [avatar] })
  expect(await read(wallet.account.address)).toBe(digest)
  expect(await read(devContracts.hub)).toBe(`0x${'00'.repeat(32)}`)
})

it('gives an owner one gateway', async () => {
  const owner = chain.newWallet()
  const gateway = await chain.openGateway(owner)
  expect(await chain.client.getCode({ address: gateway })).toBeDefined()
  expect(await chain.openGateway(owner)).toBe(gateway)
  expect(await chain.openGateway(chain.newWallet())).not.toBe(gateway)
})

it('lets nobody but a gateway speak through the factory', async () => {
  const args = [devContracts.hub, 1n] as const
  await expect(
    chain.newWallet().writeContract({ ...factory, functionName: 'trustUpdated', args, ...free }),
  ).rejects.toThrow('not one of my gateways')
})

it('finishes an interrupted deployment', async () => {
  await chain.ask('anvil_rollback', (await chain.head()) - 1)
  expect(await chain.client.getCode({ address: devContracts.hub })).toBeUndefined()
  expect(await deployDevContracts(chain.url)).toBe('deployed')
  expect(await chain.client.getCode({ address: devContracts.gatewayFactory })).toBeDefined()
})

it('refuses a chain where account 0 has done something else', async () => {
  await chain.ask('anvil_reset')
  await chain.ask('anvil_setNonce', '0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266', '0x5')
  await expect(deployDevContracts(chain.url)).rejects.toThrow('has sent 5 transactions')
})
