export type CsvRecord = {
  /** Of the file, where the record begins; the first line is 1. */
  line: number
  cells: string[]
}

export class CsvError extends Error {
  constructor(line: number, what: string) {
    super(`line ${line}: ${what}`)
    this.name = 'CsvError'
  }
}

/**
 * RFC 4180: cells in quotes may hold separators, line breaks and doubled quotes. Lines end with CRLF, LF or CR; empty ones
 * are passed over. The separator is a comma, or what the first line has instead: spreadsheets of half the world write
 * semicolons. Throws `CsvError`.
 */
export function parseCsv(text: string): CsvRecord[] {
  const source = text.replace(/^\ufeff/, '')
  const separator = separatorOf(source)
  const plain = new RegExp(`[^${separator}\\r\\n]*`, 'y')
  const lineBreak = /\r\n|\n|\r/y
  const records: CsvRecord[] = []
  let position = 0
  let line = 1

  const match = (pattern: RegExp): string | undefined => {
    pattern.lastIndex = position
    const found = pattern.exec(source)?.[0]
    position += found?.length ?? 0
    return found
  }
  const readQuoted = (): string => {
    const begin = line
    const cell = match(/"[^"]*(?:""[^"]*)*"/y)
    if (cell === undefined) throw new CsvError(begin, 'a quotation mark is opened and never closed')
    line += cell.match(/\r\n|\n|\r/g)?.length ?? 0
    return cell.slice(1, -1).replaceAll('""', '"')
  }
  const readPlain = (): string => {
    const cell = match(plain)!
    if (cell.includes('"')) throw new CsvError(line, 'a quotation mark inside a cell: put the whole cell between them')
    return cell
  }

  while (position < source.length) {
    const record: CsvRecord = { line, cells: [] }
    for (;;) {
      record.cells.push(source[position] === '"' ? readQuoted() : readPlain())
      if (source[position] !== separator) break
      position += 1
    }
    if (position < source.length && match(lineBreak) === undefined) {
      throw new CsvError(line, 'text behind a closing quotation mark')
    }
    line += 1
    if (record.cells.length > 1 || record.cells[0] !== '') records.push(record)
  }
  return records
}

function separatorOf(source: string): string {
  const firstLine = source.trimStart().split(/\r|\n/, 1)[0]!
  return [',', ';', '\t'].find((separator) => firstLine.includes(separator)) ?? ','
}
