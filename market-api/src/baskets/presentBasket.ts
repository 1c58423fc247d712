import type { StoredBasket } from './store.ts'

/** A basket as clients get it (market-api.md 4.1). */
export function presentBasket({
  basket: { sentTypes: _forValidation, ...basket },
  version,
  status,
  modifiedAt,
}: Pick<StoredBasket, 'basket' | 'version' | 'status' | 'modifiedAt'>) {
  return { ...basket, status, version: Number(version), modifiedAt: Math.floor(modifiedAt.getTime() / 1000) }
}
