//! Generates calls that are almost correct: messages of the correct type with edge values. Some messages are then
//! corrupted.

use std::collections::HashMap;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request};
use prost::Message;
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use uuid::Uuid;

use crate::harness::{Caller, DATE, raw};

const INTEGERS: [i64; 13] =
    [0, 1, -1, 2, 50, 51, 10_000, i32::MAX as i64, i32::MIN as i64, i64::MAX, i64::MIN, 1 << 33, -(1 << 40)];
const TIMEOUTS: [&str; 12] =
    ["1n", "0S", "5m", "99999999H", "100000000S", "-1S", "S", "", "1s", "20u", "1S ", "\u{e4}"];

/// A call that is ready to be sent.
#[derive(Debug, Clone)]
pub struct Call {
    /// Whether the call goes to the admin listener.
    pub is_admin: bool,
    path: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
}

impl Call {
    pub fn into_request(self) -> (Request<()>, Bytes) {
        let mut request = raw::request(&self.path).body(()).expect("a request");
        request.headers_mut().extend(self.headers.into_iter().map(|(name, value)| (Some(name), value)));
        (request, self.body)
    }
}

/// Generates calls of every RPC of every service.
pub struct Generator {
    methods: Vec<(String, DescriptorProto)>,
    messages: HashMap<String, DescriptorProto>,
    texts: Vec<String>,
    tokens: Vec<String>,
}

impl Generator {
    /// Returns a generator of calls with the ids and tokens of `callers`.
    pub fn new(callers: &[Caller]) -> Self {
        let files = FileDescriptorSet::decode(boxoffice::rpc::proto::DESCRIPTORS).expect("descriptors").file;
        let messages: HashMap<String, DescriptorProto> = files
            .iter()
            .flat_map(|file| file.message_type.iter().map(|m| (format!(".{}.{}", file.package(), m.name()), m.clone())))
            .collect();
        let mut methods = Vec::new();
        for file in &files {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    methods.push((path, messages[method.input_type()].clone()));
                }
            }
        }
        assert!(methods.len() > 25, "{}", methods.len());
        let tokens = callers.iter().map(|caller| caller.token.clone()).collect();
        Self { methods, messages, texts: texts(callers), tokens }
    }

    /// Returns a call. The same seed and case return the same call.
    pub fn call(&self, seed: u64, case: u64) -> Call {
        let random = &mut StdRng::seed_from_u64(seed ^ case.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (path, message) = self.methods.choose(random).expect("methods");
        let mut bytes = Vec::new();
        self.message(random, message, 0, &mut bytes);
        if random.random_bool(0.25) {
            corrupt(random, &mut bytes);
        }
        let is_admin = path.contains("AdminService") != random.random_bool(0.02);
        let path = if random.random_bool(0.01) { format!("{path}x") } else { path.clone() };
        Call { is_admin, path, headers: self.headers(random), body: framed(random, &bytes) }
    }

    fn message(&self, random: &mut StdRng, message: &DescriptorProto, depth: usize, out: &mut Vec<u8>) {
        for field in &message.field {
            let count = match field.label() {
                Label::Repeated => *[0, 1, 2, 30].choose(random).expect("a count"),
                _ => usize::from(random.random_bool(0.9)),
            };
            for _ in 0..count {
                self.field(random, field, depth, out);
            }
        }
    }

    fn field(&self, random: &mut StdRng, field: &FieldDescriptorProto, depth: usize, out: &mut Vec<u8>) {
        let key = (field.number() as u64) << 3;
        match field.r#type() {
            Type::Message if depth < 4 => {
                let mut inner = Vec::new();
                if let Some(message) = self.messages.get(field.type_name()) {
                    self.message(random, message, depth + 1, &mut inner);
                }
                bytes_field(key, &inner, out);
            }
            Type::String | Type::Bytes => bytes_field(key, self.text(random, field.name()).as_bytes(), out),
            _ => {
                varint(key, out);
                let integer =
                    if random.random_bool(0.1) { random.random() } else { *INTEGERS.choose(random).expect("one") };
                varint(integer as u64, out);
            }
        }
    }

    /// Returns a value for a text field. The value is usually valid, so that many calls pass validation.
    fn text(&self, random: &mut StdRng, field: &str) -> String {
        let fitting = match field {
            "user_id" => self.texts[random.random_range(0..2)].clone(),
            "concert_code" => "IU".to_owned(),
            "date" => DATE.to_owned(),
            "venue_id" => "iu".to_owned(),
            "request_id" | "reservation_id" | "payment_id" => Uuid::from_u128(random.random_range(0..50)).to_string(),
            "page_token" => String::new(),
            _ => "Floor".to_owned(),
        };
        if random.random_bool(0.7) { fitting } else { self.texts.choose(random).expect("texts").clone() }
    }

    fn headers(&self, random: &mut StdRng) -> Vec<(HeaderName, HeaderValue)> {
        let mut headers = Vec::new();
        let mut add = |name: &'static str, value: &[u8]| {
            if let Ok(value) = HeaderValue::from_bytes(value) {
                headers.push((HeaderName::from_static(name), value));
            }
        };
        let token = self.tokens.choose(random).expect("tokens");
        match random.random_range(0..10) {
            0 => {}
            1 => add("authorization", &random_bytes(random, 40)),
            2 => {
                let mut value = format!("Bearer {token}").into_bytes();
                corrupt(random, &mut value);
                add("authorization", &value);
            }
            3 => add("authorization", "Bearer a.b.".repeat(random.random_range(2..600)).as_bytes()),
            _ => add("authorization", format!("Bearer {token}").as_bytes()),
        }
        if random.random_bool(0.1) {
            add("grpc-timeout", TIMEOUTS.choose(random).expect("a timeout").as_bytes());
        }
        if random.random_bool(0.05) {
            let encoding = ["gzip", "identity", "zstd", "snappy", ""].choose(random).expect("an encoding");
            add("grpc-encoding", encoding.as_bytes());
        }
        if random.random_bool(0.1) {
            add("trace-bin", &random_bytes(random, 30));
            add("user-agent", &random_bytes(random, 300));
        }
        headers
    }
}

fn texts(callers: &[Caller]) -> Vec<String> {
    let mut texts: Vec<String> = callers.iter().map(|caller| caller.user_id.clone()).collect();
    let page_token = |list: &str, cursor: &str| hex::encode(format!("{list}\n{cursor}"));
    texts.extend([
        page_token("concerts", "A\0B"),
        page_token("concerts", "\u{10ffff}'; DROP TABLE wallet; --"),
        page_token(&format!("wallet-entries/{}", texts[0]), "-9223372036854775808"),
        page_token("performances/IU", "\u{1}"),
        page_token(&format!("payments/{}", texts[0]), "9223372036854775807/x"),
        page_token(&format!("reservations/{}", texts[0]), &format!("-1/{}", Uuid::nil())),
        "A".repeat(70_000),
        "\u{1f600}".repeat(300),
    ]);
    let short = [
        "",
        "\0",
        "a\0b",
        "'",
        "'; DROP TABLE wallet; --",
        "%s%n",
        "../../etc/passwd",
        "\u{202e}\u{feff}",
        "9999-12-31",
    ];
    texts.extend(short.map(str::to_owned));
    texts.extend(["0000-00-00", "-1", "NaN", "null", "{}", "\r\n", "IU", DATE].map(str::to_owned));
    texts
}

/// Damages a message in one to three places: cuts the rest, inserts bytes, or flips a bit.
fn corrupt(random: &mut StdRng, bytes: &mut Vec<u8>) {
    for _ in 0..random.random_range(1..4) {
        let at = random.random_range(0..=bytes.len());
        match random.random_range(0..4) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, random.random()),
            2 => drop(bytes.splice(at..at, random_bytes(random, 20))),
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.random_range(0..8);
                }
            }
        }
    }
}

/// Returns the message in a gRPC frame. About 5 % of the frames are wrong.
fn framed(random: &mut StdRng, message: &[u8]) -> Bytes {
    let mut frame = raw::frame(message).to_vec();
    match random.random_range(0..100) {
        0 => frame[0] = random.random(),
        1 => frame[1] = 0xff,
        2 => frame.extend_from_slice(&raw::frame(message)),
        3 => corrupt(random, &mut frame),
        4 => frame.clear(),
        _ => {}
    }
    frame.into()
}

fn random_bytes(random: &mut StdRng, most: usize) -> Vec<u8> {
    (0..random.random_range(0..most)).map(|_| random.random()).collect()
}

fn bytes_field(key: u64, bytes: &[u8], out: &mut Vec<u8>) {
    varint(key | 2, out);
    varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn varint(value: u64, out: &mut Vec<u8>) {
    prost::encoding::encode_varint(value, out);
}
