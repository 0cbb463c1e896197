//! Opens, charges and reads wallets.

use std::fmt::Display;

use boxoffice::rpc::proto::{self, wallet_service_client::WalletServiceClient};
use tonic::{Status, transport::Channel};
use uuid::Uuid;

/// Opens a wallet for a new user, and charges it with `balance` won if `balance` is above 0. Returns the user's id.
pub async fn open_new(channel: &Channel, balance: i64) -> Result<Uuid, Status> {
    let user_id = Uuid::now_v7();
    open(channel, user_id).await?;
    if balance > 0 {
        charge(channel, user_id, balance, "").await?;
    }
    Ok(user_id)
}

/// Opens the wallet of a user.
pub async fn open(channel: &Channel, user_id: impl Display) -> Result<(), Status> {
    let request = proto::OpenWalletRequest { user_id: user_id.to_string() };
    client(channel).open_wallet(request).await.map(drop)
}

/// Charges the wallet of a user with `amount` won. `request_id` may be empty.
pub async fn charge(
    channel: &Channel,
    user_id: impl Display,
    amount: i64,
    request_id: &str,
) -> Result<proto::ChargeWalletResponse, Status> {
    let (user_id, request_id) = (user_id.to_string(), request_id.to_owned());
    let request = proto::ChargeWalletRequest { user_id, amount, request_id };
    Ok(client(channel).charge_wallet(request).await?.into_inner())
}

/// Returns the balance of a user's wallet, in won.
pub async fn balance(channel: &Channel, user_id: impl Display) -> Result<i64, Status> {
    let request = proto::GetBalanceRequest { user_id: user_id.to_string() };
    Ok(client(channel).get_balance(request).await?.into_inner().balance)
}

fn client(channel: &Channel) -> WalletServiceClient<Channel> {
    WalletServiceClient::new(channel.clone())
}
