//! Implements `boxoffice check`: checks the invariants of the data in a database, and changes nothing.
//!
//! All checks see the same state of the database, even if servers write to it during the checks.

mod draws;
mod invariants;
mod store;

use self::{invariants::INVARIANTS, store::Example};
use crate::{
    app::{cli::Settings, failure::Failure},
    clock::Clock,
    db::{self, Database},
};

/// Number of invariants that are checked: the invariants with a query, and the order of the draws.
const COUNT: usize = INVARIANTS.len() + 1;

/// Checks the database of `settings`. Prints each violated invariant with an example. Fails if an invariant is
/// violated.
pub async fn run(settings: &Settings) -> Result<(), Failure> {
    let db = Database::new(&settings.database_url, Clock::system()).await?;
    db.follow_primary().await?;
    db.anchor_clock().await?;
    let violations = violations(&db).await?;
    if violations.is_empty() {
        println!("all {COUNT} invariants hold");
        return Ok(());
    }
    violations.iter().for_each(|violation| println!("{violation}"));
    Err(refusal(&violations).into())
}

/// Returns a sentence with the number of violations.
pub fn refusal(violations: &[String]) -> String {
    format!("{} of {COUNT} invariants are violated; the data is damaged", violations.len())
}

/// Returns each violated invariant with an example.
pub async fn violations(db: &Database) -> Result<Vec<String>, db::Error> {
    let snapshot = db.snapshot().await?;
    let mut violations = Vec::new();
    for invariant in INVARIANTS {
        let example = store::violation(&snapshot, invariant, db.now()).await?;
        violations.extend(example.map(|example| describe(invariant.rule, example)));
    }
    let example = draws::violation(&snapshot).await?;
    violations.extend(example.map(|example| describe(draws::RULE, example)));
    Ok(violations)
}

fn describe(rule: &str, Example { id, detail }: Example) -> String {
    let id = id.map(|id| format!(", {id}")).unwrap_or_default();
    format!("violated: {rule} (for example {detail}{id})")
}
