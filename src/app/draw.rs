//! Implements `boxoffice draw verify`: checks a draw from its published figures alone.

use std::{io::Write, time::Duration};

use tonic::Request;

use crate::{
    app::{
        cli::{Settings, VerifyOptions},
        client::{ApiKey, Target, reachable},
        failure::Failure,
    },
    queue::draw::{self, Places},
    rpc::proto::{self, concert_service_client::ConcertServiceClient},
};

/// Maximum time of the call to the server.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// The published figures of a draw.
struct Figures {
    commitment: String,
    seed: String,
    salt: String,
    participant_count: u32,
}

/// Verifies a draw. Prints the places of the requested queue numbers.
///
/// Fails if the seed does not match the commitment, or if the draw was not held yet.
pub async fn verify(settings: &Settings, options: VerifyOptions) -> Result<(), Failure> {
    let numbers = options.number.clone();
    let figures = figures(settings, options).await?;
    let Figures { commitment, salt, participant_count, .. } = &figures;
    let seed = draw::read_seed(&figures.seed)
        .ok_or("the seed is not 64 hexadecimal digits; copy it exactly as GetDraw returns it")?;
    let expected = draw::commitment(&seed);
    if !commitment.eq_ignore_ascii_case(&expected) {
        let refusal =
            format!("the seed does not match the commitment {commitment}: the SHA-256 of the seed is {expected}");
        return Err(refusal.into());
    }
    let places = Places::draw(&seed, salt, *participant_count)?;
    let mut output = std::io::stdout();
    writeln!(output, "the seed matches the commitment {expected}; {participant_count} tokens took part")?;
    for number in numbers {
        let place = places.place(number);
        match number <= places.participant_count() {
            true => writeln!(output, "queue number {number} has place {place}")?,
            false => {
                writeln!(output, "queue number {number} took no part; if it was issued later, it has place {place}")?
            }
        }
    }
    Ok(())
}

/// Returns the figures in the flags, or reads them from the server.
async fn figures(settings: &Settings, options: VerifyOptions) -> Result<Figures, Failure> {
    let noted = options.commitment.clone();
    let Some(concert_code) = options.concert.clone() else {
        let seed = options.seed.unwrap_or_default();
        let participant_count = options.participants.unwrap_or_default();
        return Ok(Figures { commitment: noted.unwrap_or_default(), seed, salt: options.salt, participant_count });
    };
    let draw = get_draw(settings, options, concert_code.clone()).await?;
    let Some(participant_count) = draw.participant_count else {
        let refusal = format!(
            "the draw of {concert_code} was not held yet; note its commitment {} and verify the draw after the opening",
            draw.commitment
        );
        return Err(refusal.into());
    };
    let participant_count = u32::try_from(participant_count).map_err(|_| "the draw has too many participants")?;
    let proto::Draw { seed, salt, commitment, .. } = draw;
    Ok(Figures { commitment: noted.unwrap_or(commitment), seed, salt, participant_count })
}

async fn get_draw(settings: &Settings, options: VerifyOptions, concert_code: String) -> Result<proto::Draw, Failure> {
    let server = options.server.unwrap_or_else(|| reachable(settings.listen).to_string());
    let address = server.trim_start_matches("http://").trim_start_matches("https://").trim_end_matches('/');
    let has_tls = server.starts_with("https://");
    let ca = options.ca.or_else(|| settings.transport.tls_cert.clone()).filter(|_| has_tls);
    if has_tls && ca.is_none() {
        return Err("https needs the CA that signed the server's certificate; name its file with --ca".into());
    }
    let target = Target { address: address.to_owned(), ca, name: None, identity: None };
    let channel = target.connect(target.endpoint()?).await?;
    let mut client = ConcertServiceClient::with_interceptor(channel, ApiKey::new(options.api_key.as_ref())?);
    let mut request = Request::new(proto::GetDrawRequest { concert_code });
    request.set_timeout(CALL_TIMEOUT);
    let draw = client.get_draw(request).await.map_err(|status| status.message().to_owned())?.into_inner().draw;
    draw.ok_or_else(|| "the response of the server has no draw; use the boxoffice of the server's version".into())
}
