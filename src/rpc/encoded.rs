//! Answers that are encoded once for many callers.

use std::sync::OnceLock;

use prost::{Message, bytes::Bytes};

/// An answer `T`, as a message or already encoded. Clones of an encoded answer share its bytes.
#[derive(Debug, Clone)]
pub enum Encoded<T> {
    /// The message. The codec encodes it.
    Message(T),
    /// The bytes of the encoded message.
    Bytes(Bytes),
}

/// The encoded form of an answer that many callers get. The first caller encodes the message.
#[derive(Debug, Default)]
pub struct SharedAnswer(OnceLock<Bytes>);

impl SharedAnswer {
    /// Returns the encoded answer. Only the first call makes the message.
    pub fn get_or_encode<T: Message>(&self, message: impl FnOnce() -> T) -> Encoded<T> {
        Encoded::Bytes(self.0.get_or_init(|| message().encode_to_vec().into()).clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::proto::ListSeatsResponse;

    #[test]
    fn only_the_first_caller_encodes_the_answer_and_all_get_its_bytes() {
        let answer = ListSeatsResponse { next_page_token: "50".to_owned(), ..Default::default() };
        let shared = SharedAnswer::default();
        let first = shared.get_or_encode(|| answer.clone());
        let second = shared.get_or_encode(|| -> ListSeatsResponse { panic!("encoded twice") });
        for encoded in [first, second] {
            let Encoded::Bytes(bytes) = encoded else { panic!("not encoded") };
            assert_eq!(ListSeatsResponse::decode(bytes).unwrap(), answer);
        }
    }
}
