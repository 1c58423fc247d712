import * as leases from './0001_leases.ts'
import * as signIn from './0002_sign_in.ts'
import * as catalog from './0003_catalog.ts'
import * as serviceRoutes from './0004_service_routes.ts'
import * as basketsOrders from './0005_baskets_orders.ts'
import * as payments from './0006_payments.ts'
import * as fulfillment from './0007_fulfillment.ts'
import * as catalogIndex from './0008_catalog_index.ts'
import * as pins from './0009_pins.ts'
import * as oneOffSales from './0010_one_off_sales.ts'
import * as sellerGateways from './0011_seller_gateways.ts'
import * as unpin from './0012_unpin.ts'
import * as buyersApi from './0013_buyers_api.ts'
import * as settledPayments from './0014_payments.ts'
import * as jobCancelled from './0015_job_cancelled.ts'
import * as dispatch from './0016_dispatch.ts'

export const migrations = {
  '0001_leases': leases,
  '0002_sign_in': signIn,
  '0003_catalog': catalog,
  '0004_service_routes': serviceRoutes,
  '0005_baskets_orders': basketsOrders,
  '0006_payments': payments,
  '0007_fulfillment': fulfillment,
  '0008_catalog_index': catalogIndex,
  '0009_pins': pins,
  '0010_one_off_sales': oneOffSales,
  '0011_seller_gateways': sellerGateways,
  '0012_unpin': unpin,
  '0013_buyers_api': buyersApi,
  '0014_payments': settledPayments,
  '0015_job_cancelled': jobCancelled,
  '0016_dispatch': dispatch,
}
