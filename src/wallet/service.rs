//! WalletService: opens and charges wallets, and returns balances and ledger entries.

use std::sync::Arc;

use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{
    operations::{self, Charge},
    store::{self, Wallet},
};
use crate::{
    batch::{WriteLane, write_lane},
    db::{
        Database,
        entity::ledger_entry::{self, Kind},
    },
    rpc::{
        Error, Fields, Page,
        proto::{self, wallet_service_server::WalletService},
    },
};

/// Serves WalletService.
pub struct WalletApi {
    db: Database,
    currency_code: Arc<str>,
    open: WriteLane<Uuid, Wallet>,
    charge: WriteLane<Charge, ledger_entry::Model>,
}

impl WalletApi {
    /// Starts the lanes that open and charge wallets. All amounts are in the smallest unit of `currency_code`.
    pub fn new(db: Database, currency_code: &str, tasks: &TaskTracker) -> Self {
        Self {
            open: write_lane(&db, "wallet.open", tasks, |write, users| Box::pin(operations::open(write, users))),
            charge: write_lane(&db, "wallet.charge", tasks, |write, commands| {
                Box::pin(operations::charge(write, commands))
            }),
            db,
            currency_code: currency_code.into(),
        }
    }

    fn currency_code(&self) -> String {
        self.currency_code.to_string()
    }
}

#[tonic::async_trait]
impl WalletService for WalletApi {
    async fn open_wallet(
        &self,
        request: Request<proto::OpenWalletRequest>,
    ) -> Result<Response<proto::OpenWalletResponse>, Status> {
        let user_id = read_user(&request.get_ref().user_id)?;
        let wallet = self.open.submit(user_id, user_id).await?;
        Ok(Response::new(proto::OpenWalletResponse {
            wallet: Some(proto::Wallet {
                user_id: wallet.user_id.to_string(),
                balance: wallet.balance,
                currency_code: self.currency_code(),
                open_time: Some(proto::timestamp(wallet.open_time)),
            }),
        }))
    }

    async fn get_balance(
        &self,
        request: Request<proto::GetBalanceRequest>,
    ) -> Result<Response<proto::GetBalanceResponse>, Status> {
        let user_id = read_user(&request.get_ref().user_id)?;
        let wallet = operations::require(&self.db, user_id).await?;
        Ok(Response::new(proto::GetBalanceResponse { balance: wallet.balance, currency_code: self.currency_code() }))
    }

    async fn charge_wallet(
        &self,
        request: Request<proto::ChargeWalletRequest>,
    ) -> Result<Response<proto::ChargeWalletResponse>, Status> {
        let request = request.into_inner();
        let mut fields = Fields::default();
        let command = Charge {
            user_id: fields.uuid("user_id", &request.user_id),
            amount: request.amount,
            request_id: fields.optional_uuid("request_id", &request.request_id),
        };
        fields.require(request.amount > 0, "amount", "must be above 0");
        fields.done()?;
        let request_id = command.request_id;
        let entry = self.charge.submit(command.user_id, command).await;
        let entry = entry.map_err(|error| error.of_request(request_id))?;
        Ok(Response::new(proto::ChargeWalletResponse {
            balance: entry.balance_after,
            currency_code: self.currency_code(),
            entry: Some(entry.into()),
        }))
    }

    async fn list_wallet_entries(
        &self,
        request: Request<proto::ListWalletEntriesRequest>,
    ) -> Result<Response<proto::ListWalletEntriesResponse>, Status> {
        let request = request.into_inner();
        let mut fields = Fields::default();
        let user_id = fields.uuid("user_id", &request.user_id);
        let list = format!("wallet-entries/{user_id}");
        let page = Page::read(&mut fields, list, request.page_size, &request.page_token);
        fields.done()?;
        let before = page.cursor(|cursor| cursor.parse().ok())?;
        operations::require(&self.db, user_id).await?;
        let rows = store::entries(&self.db, user_id, before, None, page.size + 1).await.map_err(Error::from)?;
        let (rows, next_page_token) = page.cut(rows, |row| row.entry_number.to_string());
        Ok(Response::new(proto::ListWalletEntriesResponse {
            entries: rows.into_iter().map(proto::WalletEntry::from).collect(),
            next_page_token,
        }))
    }
}

fn read_user(user_id: &str) -> Result<Uuid, Error> {
    let mut fields = Fields::default();
    let user_id = fields.uuid("user_id", user_id);
    fields.done()?;
    Ok(user_id)
}

impl From<ledger_entry::Model> for proto::WalletEntry {
    fn from(row: ledger_entry::Model) -> Self {
        let kind = match row.kind {
            Kind::Charge => proto::WalletEntryKind::Charge,
            Kind::Payment => proto::WalletEntryKind::Payment,
            Kind::Refund => proto::WalletEntryKind::Refund,
        };
        Self {
            entry_id: row.entry_number,
            kind: kind.into(),
            amount: row.amount,
            balance_after: row.balance_after,
            payment_id: row.payment_id.map(|id| id.to_string()).unwrap_or_default(),
            create_time: Some(proto::timestamp(row.create_time)),
        }
    }
}
