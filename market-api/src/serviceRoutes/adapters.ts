import type { Config } from '../config.ts'

/** Where each adapter is and with which key it is spoken to, by the prefix of its variables (fulfilment.md 2, 5). */
const ADAPTERS = {
  MARKET_CODE_DISPENSER: 'market-adapter-codedispenser',
  MARKET_ODOO_ADAPTER: 'market-adapter-odoo',
  MARKET_UNLOCK_ADAPTER: 'market-adapter-unlock',
  MARKET_WOOCOMMERCE_ADAPTER: 'market-adapter-woocommerce',
} as const
const PREFIXES = Object.keys(ADAPTERS) as (keyof typeof ADAPTERS)[]

const originOf = (config: Config, prefix: keyof typeof ADAPTERS) =>
  config[`${prefix}_ORIGIN`] ?? `http://${ADAPTERS[prefix]}:${config[`${prefix}_PORT`]}`

/** A page of the catalog expands a hundred templates. */
const expanded = new WeakMap<Config, Record<string, string>>()

/** The hosts and ports a template may name. They come from configuration, so no row can send the service key elsewhere. */
export function templateVariables(config: Config): Readonly<Record<string, string>> {
  const known = expanded.get(config)
  if (known) return known
  const variables: Record<string, string> = { MARKET_API_PORT: String(config.PORT) }
  for (const prefix of PREFIXES) {
    variables[`${prefix}_PORT`] = String(config[`${prefix}_PORT`])
    variables[`${prefix}_ORIGIN`] = originOf(config, prefix)
  }
  expanded.set(config, variables)
  return variables
}

/** The key for each configured origin: the adapter's own, else the one they share. */
export function serviceKeys(config: Config): Map<string, string> {
  return new Map(
    PREFIXES.map((prefix) => [
      new URL(originOf(config, prefix)).origin,
      (config[`${prefix}_TOKEN`] ?? config.CIRCLES_SERVICE_KEY).reveal(),
    ]),
  )
}
