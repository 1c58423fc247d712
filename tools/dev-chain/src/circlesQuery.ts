import { devContracts } from './deployment.ts'
import { compareRows, listOf, parseFilter, property } from './filter.ts'
import { askNode, invalidParams } from './node.ts'
import { type NodeLog, readColumn, readTable, type Row, rowOf, type Table } from './tables.ts'

export interface QueryResult {
  columns: string[]
  rows: (string | number)[][]
}

/** Reads the node's logs anew each time: a row remembered here would outlive the block a reorg took away. */
export async function circlesQuery(nodeUrl: string, query: unknown): Promise<QueryResult> {
  const table = readTable(property(query, 'namespace'), property(query, 'table'))
  const named = listOf(property(query, 'columns'), 'columns').map((name) => readColumn(table, name))
  const columns = named.length > 0 ? named : table.columns
  const filter = parseFilter(table, property(query, 'filter'))
  const inOrder = parseOrder(table, property(query, 'order'))
  const limit = parseLimit(property(query, 'limit'))

  const rows = (await readRows(nodeUrl, table, filter.fromBlock)).filter(filter.matches).toSorted(inOrder)
  return {
    columns: columns.map(({ name }) => name),
    rows: rows.slice(0, limit).map((row) => columns.map(({ name }) => row[name]!)),
  }
}

async function readRows(nodeUrl: string, table: Table, fromBlock: bigint): Promise<Row[]> {
  // A node refuses to read from a block it does not have, which is where a cursor points after a reorg.
  if (fromBlock > BigInt(await askNode<string>(nodeUrl, 'eth_blockNumber'))) return []
  const logs = await askNode<NodeLog[]>(nodeUrl, 'eth_getLogs', [
    {
      address: devContracts.gatewayFactory,
      topics: [table.topic],
      fromBlock: `0x${fromBlock.toString(16)}`,
      toBlock: 'latest',
    },
  ])
  return logs.map(rowOf)
}

function parseOrder(table: Table, order: unknown): (left: Row, right: Row) => number {
  const keys = listOf(order, 'order').map((entry) => {
    const sortOrder = property(entry, 'sortOrder')
    if (sortOrder !== 'ASC' && sortOrder !== 'DESC') throw invalidParams(`unknown sortOrder ${String(sortOrder)}`)
    return { column: readColumn(table, property(entry, 'column')), sign: sortOrder === 'ASC' ? 1 : -1 }
  })
  return (left, right) => {
    for (const { column, sign } of keys) {
      const ordered = compareRows(column, left, right)
      if (ordered !== 0) return sign * ordered
    }
    return 0
  }
}

function parseLimit(limit: unknown): number {
  if (limit === undefined || limit === null) return 100
  if (typeof limit !== 'number' || !Number.isSafeInteger(limit) || limit < 0) {
    throw invalidParams(`${JSON.stringify(limit)} is no limit`)
  }
  return Math.min(limit, 1000)
}
