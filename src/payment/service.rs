//! PaymentService: pays, refunds, and returns payments.

use std::sync::Arc;

use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};

use super::{
    pay::{self, Pay},
    refund::{self, Refund, not_found},
    rules::{Payment, State},
    store,
};
use crate::{
    batch::{WriteLane, write_lane},
    catalogue::Catalogue,
    db::{Database, entity::reservation::Model as Reservation},
    queue::Admission,
    reservation,
    rpc::{
        Error, Fields, Page,
        proto::{self, payment_service_server::PaymentService},
    },
    token, wallet,
};

/// Serves PaymentService.
pub struct PaymentApi {
    db: Database,
    catalogue: Arc<Catalogue>,
    admission: Admission,
    pay: WriteLane<Pay, Reservation>,
    refund: WriteLane<Refund, Reservation>,
}

impl PaymentApi {
    /// Starts the lanes that pay and refund.
    pub fn new(db: Database, catalogue: Arc<Catalogue>, admission: Admission, tasks: &TaskTracker) -> Self {
        Self {
            refund: write_lane(&db, "payment.refund", tasks, |write, commands| {
                Box::pin(refund::refund(write, commands))
            }),
            pay: write_lane(&db, "payment.pay", tasks, {
                let catalogue = catalogue.clone();
                move |write, commands| Box::pin(pay::pay(write, catalogue.clone(), commands))
            }),
            db,
            catalogue,
            admission,
        }
    }

    async fn to_proto(&self, paid: Reservation) -> Result<proto::Payment, Error> {
        let payment = Payment::of(&paid).ok_or_else(|| Error::internal("a paid reservation has no payment"))?;
        let performance = self.catalogue.performance_by_id(paid.performance_id).await?;
        let state = match payment.state {
            State::Paid => proto::PaymentState::Paid,
            State::Refunded => proto::PaymentState::Refunded,
        };
        Ok(proto::Payment {
            payment_id: payment.payment_id.to_string(),
            user_id: payment.user_id.to_string(),
            reservation_id: payment.reservation_id.to_string(),
            concert_code: performance.concert.concert_code.clone(),
            concert_name: performance.concert.name.clone(),
            date: performance.date.clone(),
            seat_numbers: reservation::rules::seat_numbers(&paid),
            price: payment.price,
            state: state.into(),
            pay_time: Some(proto::timestamp(payment.pay_time)),
            refund_time: payment.refund_time.map(proto::timestamp),
        })
    }
}

#[tonic::async_trait]
impl PaymentService for PaymentApi {
    async fn pay(&self, request: Request<proto::PayRequest>) -> Result<Response<proto::PayResponse>, Status> {
        let bearer = token::bearer(request.extensions())?;
        let request = request.into_inner();
        let mut fields = Fields::default();
        let user_id = fields.uuid("user_id", &request.user_id);
        let reservation_id = fields.optional_uuid("reservation_id", &request.reservation_id);
        let request_id = fields.optional_uuid("request_id", &request.request_id);
        fields.done()?;
        bearer.require_user(user_id)?;
        let command = Pay {
            token: bearer.key(),
            concert_code: bearer.concert_code.clone(),
            user_id,
            reservation_id,
            request_id,
            retry_after: self.admission.retry_after(&bearer),
        };
        let paid = self.pay.submit(user_id, command).await;
        let paid = paid.map_err(|error| error.of_request(request_id))?;
        Ok(Response::new(proto::PayResponse { payment: Some(self.to_proto(paid).await?) }))
    }

    // Needs no token: the calling service has authenticated `user_id`.
    async fn refund_payment(
        &self,
        request: Request<proto::RefundPaymentRequest>,
    ) -> Result<Response<proto::RefundPaymentResponse>, Status> {
        let request = request.into_inner();
        let mut fields = Fields::default();
        let user_id = fields.uuid("user_id", &request.user_id);
        let payment_id = fields.uuid("payment_id", &request.payment_id);
        let request_id = fields.optional_uuid("request_id", &request.request_id);
        fields.done()?;
        let paid = store::find(&self.db, user_id, payment_id).await.map_err(Error::from)?;
        let performance = match paid {
            Some(paid) => Some(self.catalogue.performance_by_id(paid.performance_id).await?),
            None => None,
        };
        let command = Refund { user_id, payment_id, performance, request_id };
        let paid = self.refund.submit(user_id, command).await;
        let paid = paid.map_err(|error| error.of_request(request_id))?;
        Ok(Response::new(proto::RefundPaymentResponse { payment: Some(self.to_proto(paid).await?) }))
    }

    // Needs no token: the calling service has authenticated `user_id`.
    async fn get_payment(
        &self,
        request: Request<proto::GetPaymentRequest>,
    ) -> Result<Response<proto::GetPaymentResponse>, Status> {
        let request = request.into_inner();
        let mut fields = Fields::default();
        let user_id = fields.uuid("user_id", &request.user_id);
        let payment_id = fields.uuid("payment_id", &request.payment_id);
        fields.done()?;
        let paid = store::find(&self.db, user_id, payment_id).await.map_err(Error::from)?;
        let paid = paid.ok_or_else(|| not_found(payment_id))?;
        Ok(Response::new(proto::GetPaymentResponse { payment: Some(self.to_proto(paid).await?) }))
    }

    // Needs no token: the calling service has authenticated `user_id`.
    async fn list_payments(
        &self,
        request: Request<proto::ListPaymentsRequest>,
    ) -> Result<Response<proto::ListPaymentsResponse>, Status> {
        let request = request.into_inner();
        let mut fields = Fields::default();
        let user_id = fields.uuid("user_id", &request.user_id);
        let list = format!("payments/{user_id}");
        let page = Page::read(&mut fields, list, request.page_size, &request.page_token);
        fields.done()?;
        let before = page.cursor(|cursor| cursor.parse().ok())?;
        wallet::operations::require(&self.db, user_id).await?;
        let booked = wallet::operations::payments(&self.db, user_id, before, page.size + 1).await?;
        let (booked, next_page_token) = page.cut(booked, |payment| payment.entry_number.to_string());
        let ids: Vec<_> = booked.into_iter().map(|payment| payment.payment_id).collect();
        let mut rows = store::find_many(&self.db, &ids).await.map_err(Error::from)?;
        let mut payments = Vec::with_capacity(rows.len());
        for row in ids.iter().filter_map(|id| rows.remove(id)) {
            payments.push(self.to_proto(row).await?);
        }
        Ok(Response::new(proto::ListPaymentsResponse { payments, next_page_token }))
    }
}
