import { createServer } from 'node:http'

// An adapter with more of everything than anybody orders, so that the figures are the market's own.
const body = JSON.stringify({ '@type': 'QuantitativeValue', value: 1_000_000_000, unitCode: 'C62' })
createServer((_, response) => response.writeHead(200, { 'Content-Type': 'application/json' }).end(body)).listen(
  Number(process.argv[2]),
  '127.0.0.1',
  () => console.log('ready'),
)
