//! A user of the service, and the calls that the user makes.

use boxoffice::rpc::proto::{
    self, concert_service_client::ConcertServiceClient, payment_service_client::PaymentServiceClient,
    queue_service_client::QueueServiceClient, reservation_service_client::ReservationServiceClient,
};
use tonic::{Request, Status, Streaming, transport::Channel};
use uuid::Uuid;

/// A user that wants seats of a concert. A test may change the fields to make wrong calls.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The connection to a server.
    pub channel: Channel,
    /// The code of the concert.
    pub concert_code: String,
    /// The id of the user.
    pub user_id: String,
    /// The queue token; empty before a token is issued.
    pub token: String,
    /// The number in the queue; 0 before a token is issued.
    pub queue_number: i64,
}

/// The calls for the queue.
impl Caller {
    /// Returns a user without a token.
    pub fn new(channel: Channel, concert_code: &str, user_id: impl ToString) -> Self {
        let (concert_code, user_id) = (concert_code.to_owned(), user_id.to_string());
        Self { channel, concert_code, user_id, token: String::new(), queue_number: 0 }
    }

    /// Takes a queue token for a user, and returns the user with the token.
    pub async fn join(channel: Channel, concert_code: &str, user_id: Uuid) -> Result<Self, Status> {
        let mut caller = Self::new(channel, concert_code, user_id);
        let token = caller.issue().await?;
        (caller.token, caller.queue_number) = (token.token, token.queue_number);
        Ok(caller)
    }

    /// Returns the same user with a connection to another server.
    pub fn via(&self, channel: Channel) -> Self {
        Self { channel, ..self.clone() }
    }

    /// Returns the user's id as a UUID. Panics if a test has changed the id to a text that is not a UUID.
    pub fn uuid(&self) -> Uuid {
        self.user_id.parse().expect("a UUID")
    }

    /// Returns a request with `message`, and with the token if the user has one.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if !self.token.is_empty() {
            let value = format!("Bearer {}", self.token).parse().expect("a header");
            request.metadata_mut().insert("authorization", value);
        }
        request
    }

    /// Returns a client of QueueService.
    pub fn queue(&self) -> QueueServiceClient<Channel> {
        QueueServiceClient::new(self.channel.clone())
    }

    /// Calls IssueToken. Does not store the new token.
    pub async fn issue(&self) -> Result<proto::QueueToken, Status> {
        let (concert_code, user_id) = (self.concert_code.clone(), self.user_id.clone());
        let request = proto::IssueTokenRequest { concert_code, user_id };
        present(self.queue().issue_token(request).await?.into_inner().token)
    }

    /// Calls GetPosition.
    pub async fn position(&self) -> Result<proto::QueuePosition, Status> {
        let (concert_code, user_id) = (self.concert_code.clone(), self.user_id.clone());
        let request = self.request(proto::GetPositionRequest { concert_code, user_id });
        present(self.queue().get_position(request).await?.into_inner().position)
    }

    /// Calls GetPosition and returns the state of the token. Panics if the call fails.
    pub async fn state(&self) -> proto::QueueState {
        self.position().await.expect("position").state()
    }

    /// Calls WatchPosition.
    pub async fn watch(&self) -> Result<Streaming<proto::WatchPositionResponse>, Status> {
        let (concert_code, user_id) = (self.concert_code.clone(), self.user_id.clone());
        let request = self.request(proto::WatchPositionRequest { concert_code, user_id });
        Ok(self.queue().watch_position(request).await?.into_inner())
    }

    /// Calls LeaveQueue.
    pub async fn leave(&self) -> Result<(), Status> {
        let (concert_code, user_id) = (self.concert_code.clone(), self.user_id.clone());
        let request = self.request(proto::LeaveQueueRequest { concert_code, user_id });
        self.queue().leave_queue(request).await.map(drop)
    }
}

/// The calls for dates and seats.
impl Caller {
    /// Returns a client of ConcertService.
    pub fn concerts(&self) -> ConcertServiceClient<Channel> {
        ConcertServiceClient::new(self.channel.clone())
    }

    /// Calls ListPerformances for the first page.
    pub async fn performances(&self) -> Result<Vec<proto::Performance>, Status> {
        let request = proto::ListPerformancesRequest {
            concert_code: self.concert_code.clone(),
            user_id: self.user_id.clone(),
            ..Default::default()
        };
        let response = self.concerts().list_performances(self.request(request)).await?;
        Ok(response.into_inner().performances)
    }

    /// Calls ListSeats for the first page.
    pub async fn seats(&self, date: &str) -> Result<Vec<proto::Seat>, Status> {
        let request = proto::ListSeatsRequest {
            concert_code: self.concert_code.clone(),
            user_id: self.user_id.clone(),
            date: date.to_owned(),
            ..Default::default()
        };
        Ok(self.concerts().list_seats(self.request(request)).await?.into_inner().seats)
    }

    /// Calls ListSeats for the first page and returns the state of one seat. Panics if the call fails or the page does
    /// not have the seat.
    pub async fn seat(&self, date: &str, seat_number: i32) -> proto::SeatState {
        let seats = self.seats(date).await.expect("seats");
        seats.iter().find(|seat| seat.seat_number == seat_number).expect("seat").state()
    }

    /// Calls WatchSeats.
    pub async fn watch_seats(&self, date: &str) -> Result<Streaming<proto::WatchSeatsResponse>, Status> {
        let request = proto::WatchSeatsRequest {
            concert_code: self.concert_code.clone(),
            user_id: self.user_id.clone(),
            date: date.to_owned(),
        };
        Ok(self.concerts().watch_seats(self.request(request)).await?.into_inner())
    }
}

/// The calls for reservations.
impl Caller {
    /// Returns a client of ReservationService.
    pub fn reservations(&self) -> ReservationServiceClient<Channel> {
        ReservationServiceClient::new(self.channel.clone())
    }

    /// Calls HoldSeats without a request id.
    pub async fn hold(&self, date: &str, seat_numbers: &[i32]) -> Result<proto::Reservation, Status> {
        self.hold_as(date, seat_numbers, "").await
    }

    /// Calls HoldSeats.
    pub async fn hold_as(
        &self,
        date: &str,
        seat_numbers: &[i32],
        request_id: &str,
    ) -> Result<proto::Reservation, Status> {
        let request = proto::HoldSeatsRequest {
            concert_code: self.concert_code.clone(),
            user_id: self.user_id.clone(),
            date: date.to_owned(),
            seat_numbers: seat_numbers.to_vec(),
            request_id: request_id.to_owned(),
            best_available: None,
        };
        let response = self.reservations().hold_seats(self.request(request)).await?;
        present(response.into_inner().reservation)
    }

    /// Calls HoldSeats for the best available seats.
    pub async fn hold_best(
        &self,
        date: &str,
        best: proto::BestAvailable,
        request_id: &str,
    ) -> Result<proto::Reservation, Status> {
        let request = proto::HoldSeatsRequest {
            concert_code: self.concert_code.clone(),
            user_id: self.user_id.clone(),
            date: date.to_owned(),
            request_id: request_id.to_owned(),
            best_available: Some(best),
            ..Default::default()
        };
        let response = self.reservations().hold_seats(self.request(request)).await?;
        present(response.into_inner().reservation)
    }

    /// Calls HoldSeats for the best `seat_count` seats together, without a request id.
    pub async fn hold_together(&self, date: &str, seat_count: i32) -> Result<proto::Reservation, Status> {
        self.hold_best(date, proto::BestAvailable { seat_count, ..Default::default() }, "").await
    }

    /// Calls ExtendReservation.
    pub async fn extend(&self, reservation_id: &str, request_id: &str) -> Result<proto::Reservation, Status> {
        let request = proto::ExtendReservationRequest {
            user_id: self.user_id.clone(),
            reservation_id: reservation_id.to_owned(),
            request_id: request_id.to_owned(),
        };
        let response = self.reservations().extend_reservation(self.request(request)).await?;
        present(response.into_inner().reservation)
    }

    /// Calls ReleaseReservation.
    pub async fn release(&self, reservation_id: &str) -> Result<proto::Reservation, Status> {
        let (user_id, reservation_id) = (self.user_id.clone(), reservation_id.to_owned());
        let request = self.request(proto::ReleaseReservationRequest { user_id, reservation_id });
        let response = self.reservations().release_reservation(request).await?;
        present(response.into_inner().reservation)
    }

    /// Calls GetReservation.
    pub async fn reservation(&self, reservation_id: &str) -> Result<proto::Reservation, Status> {
        let (user_id, reservation_id) = (self.user_id.clone(), reservation_id.to_owned());
        let request = proto::GetReservationRequest { user_id, reservation_id };
        let response = self.reservations().get_reservation(request).await?;
        present(response.into_inner().reservation)
    }
}

/// The calls for payments.
impl Caller {
    /// Returns a client of PaymentService.
    pub fn payments(&self) -> PaymentServiceClient<Channel> {
        PaymentServiceClient::new(self.channel.clone())
    }

    /// Calls Pay without a reservation id and without a request id. The call then pays for the only reservation that
    /// the token holds.
    pub async fn pay(&self) -> Result<proto::Payment, Status> {
        self.pay_as("", "").await
    }

    /// Calls Pay.
    pub async fn pay_as(&self, reservation_id: &str, request_id: &str) -> Result<proto::Payment, Status> {
        let request = proto::PayRequest {
            user_id: self.user_id.clone(),
            reservation_id: reservation_id.to_owned(),
            request_id: request_id.to_owned(),
        };
        let response = self.payments().pay(self.request(request)).await?;
        present(response.into_inner().payment)
    }

    /// Calls RefundPayment without a request id.
    pub async fn refund(&self, payment_id: &str) -> Result<proto::Payment, Status> {
        self.refund_as(payment_id, "").await
    }

    /// Calls RefundPayment.
    pub async fn refund_as(&self, payment_id: &str, request_id: &str) -> Result<proto::Payment, Status> {
        let request = proto::RefundPaymentRequest {
            user_id: self.user_id.clone(),
            payment_id: payment_id.to_owned(),
            request_id: request_id.to_owned(),
        };
        present(self.payments().refund_payment(request).await?.into_inner().payment)
    }
}

fn present<T>(field: Option<T>) -> Result<T, Status> {
    field.ok_or_else(|| Status::internal("the only field of the response is not set"))
}
