import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { parseCsv } from './csv.ts'

const cells = (text: string) => parseCsv(text).map((record) => record.cells)

describe('parseCsv', () => {
  it.each([
    [
      'a,b\n1,2',
      [
        ['a', 'b'],
        ['1', '2'],
      ],
    ],
    [
      'a,b\r\n1,2\r\n',
      [
        ['a', 'b'],
        ['1', '2'],
      ],
    ],
    [
      'a,b\r1,2',
      [
        ['a', 'b'],
        ['1', '2'],
      ],
    ],
    [
      '\ufeffa,b\n1,2',
      [
        ['a', 'b'],
        ['1', '2'],
      ],
    ],
    [
      'a,b\n\n1,\n\n',
      [
        ['a', 'b'],
        ['1', ''],
      ],
    ],
    [
      'a,b\n"say ""hi"", twice","two\nlines"',
      [
        ['a', 'b'],
        ['say "hi", twice', 'two\nlines'],
      ],
    ],
    [
      'a,b\n"",""',
      [
        ['a', 'b'],
        ['', ''],
      ],
    ],
    [
      'a;b\n1,5;2',
      [
        ['a', 'b'],
        ['1,5', '2'],
      ],
    ],
    [
      'a\tb\n1\t2',
      [
        ['a', 'b'],
        ['1', '2'],
      ],
    ],
    [
      'a,b\n 1 ,2',
      [
        ['a', 'b'],
        [' 1 ', '2'],
      ],
    ],
    ['', []],
  ])('reads %j', (text, expected) => {
    expect(cells(text)).toEqual(expected)
  })

  it.each([
    ['a,b\n1,"open\nand on', 'line 2: a quotation mark is opened and never closed'],
    ['a,b\n\n1,5" disc', 'line 3: a quotation mark inside a cell: put the whole cell between them'],
    ['a,b\n"1"x,2', 'line 2: text behind a closing quotation mark'],
  ])('says where %j is wrong', (text, message) => {
    expect(() => parseCsv(text)).toThrow(message)
  })

  it('knows the line of a record behind cells with line breaks', () => {
    expect(parseCsv('a,b\n"1\r\n2\n3",x\nc,d').map(({ line }) => line)).toEqual([1, 2, 5])
  })

  it('reads back whatever was written', () => {
    const cell = fc.string({
      unit: fc.constantFrom('a', 'ä', ' ', ',', ';', '"', '\n', '\r', '\t', '\ufeff'),
      maxLength: 6,
    })
    const table = fc
      .integer({ min: 1, max: 4 })
      .chain((width) => fc.array(fc.array(cell, { minLength: width, maxLength: width }), { maxLength: 6 }))
    const quoted = (text: string) => `"${text.replaceAll('"', '""')}"`
    const bare = (text: string) => (/["\r\n,;\t\ufeff]/.test(text) ? quoted(text) : text)
    fc.assert(
      fc.property(table, fc.constantFrom('\n', '\r\n', '\r'), fc.boolean(), (rows, end, quoteAll) => {
        const written = [['h', 'i'], ...rows].map((row) => row.map(quoteAll ? quoted : bare).join(',')).join(end)
        // A record of one empty cell is an empty line.
        const expected = rows.filter((row) => row.length > 1 || row[0] !== '')
        expect(cells(written)).toEqual([['h', 'i'], ...expected])
      }),
    )
  })
})
