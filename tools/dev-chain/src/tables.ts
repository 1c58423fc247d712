import { type ContractEventName, decodeEventLog, encodeEventTopics, type Hex } from 'viem'
import { gatewayFactoryAbi } from './deployment.ts'
import { invalidParams } from './node.ts'

/** `number` and `text` as JSON has them; a `uint` is a decimal string, too wide for a JSON number. */
export interface Column {
  name: string
  kind: 'number' | 'uint' | 'text'
}

export interface Table {
  name: string
  topic: Hex
  columns: readonly Column[]
}

export type Row = Record<string, string | number>

/** A log as `eth_getLogs` answers it. */
export interface NodeLog {
  address: Hex
  topics: [Hex, ...Hex[]]
  data: Hex
  blockNumber: Hex
  blockTimestamp: Hex
  transactionIndex: Hex
  transactionHash: Hex
  logIndex: Hex
}

const position: Column[] = [
  { name: 'blockNumber', kind: 'number' },
  { name: 'timestamp', kind: 'number' },
  { name: 'transactionIndex', kind: 'number' },
  { name: 'logIndex', kind: 'number' },
  { name: 'transactionHash', kind: 'text' },
  { name: 'emitter', kind: 'text' },
]

const tables: readonly Table[] = (
  ['PaymentReceived', 'TrustUpdated', 'GatewayCreated'] satisfies ContractEventName<typeof gatewayFactoryAbi>[]
).map((name) => {
  const { inputs } = gatewayFactoryAbi.find((entry) => entry.type === 'event' && entry.name === name)!
  const parameters = inputs.map((input) => {
    const kind: Column['kind'] = input.type.startsWith('uint') ? 'uint' : 'text'
    return { name: input.name, kind }
  })
  const [topic] = encodeEventTopics({ abi: gatewayFactoryAbi, eventName: name })
  return { name, topic, columns: [...position, ...parameters] }
})

export function readTable(namespace: unknown, name: unknown): Table {
  const table = namespace === 'CrcV2_PaymentGateway' ? tables.find((each) => each.name === name) : undefined
  if (!table) throw invalidParams(`unknown table ${String(namespace)}.${String(name)}`)
  return table
}

export function readColumn(table: Table, name: unknown): Column {
  const wanted = String(name).toLowerCase()
  const column = table.columns.find((each) => each.name.toLowerCase() === wanted)
  if (!column) throw invalidParams(`unknown column ${String(name)} in ${table.name}`)
  return column
}

export function rowOf(log: NodeLog): Row {
  const row: Row = {
    blockNumber: Number(log.blockNumber),
    timestamp: Number(log.blockTimestamp),
    transactionIndex: Number(log.transactionIndex),
    logIndex: Number(log.logIndex),
    transactionHash: log.transactionHash,
    emitter: log.address.toLowerCase(),
  }
  const { args } = decodeEventLog({ abi: gatewayFactoryAbi, data: log.data, topics: log.topics })
  for (const [name, value] of Object.entries(args)) row[name] = String(value).toLowerCase()
  return row
}
