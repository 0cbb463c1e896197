//! Each operation under full load against the echo, alone on an idle server, and in the rush of the first second.

mod calls;
mod checks;
mod idle;
mod report;
mod round;
mod rush;

use std::{fs, ops::Range, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};
use tonic::transport::Channel;

use crate::{
    Failure,
    cli::{Common, Engine, EngineChoice, Growth},
    deployment::{self, Deployment},
    echo::EchoProcess,
    growth,
    load::{self, Supply},
    naive,
    postgres::Postgres,
    world::{self, World},
};
pub use calls::{Calls, Measure};
pub use checks::Check;
pub use round::median;

use calls::{CONCERT, CONTESTED_DATE, FRESH_CONCERT, LARGE_DATE, SMALL_DATE, SMALL_SEATS, Winners};
use report::{EngineReport, Report};
use round::{Figures, Spec};

/// Admissions and holds outlast the run; promotion does not keep it waiting.
const FLAGS: [&str; 6] = ["--promote-interval", "100ms", "--admission-ttl", "2h", "--hold-ttl", "1h"];
const ADMISSION_LIMIT: Duration = Duration::from_secs(180);
/// What is measured under load, in its order, for the progress.
const MEASURED: u64 = 7;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Rounds of the echo and of each operation, in turn.
    pub rounds: usize,
    /// Users of one round of an operation that each user makes once.
    pub slice: usize,
    /// Users of the warm-up before.
    pub warm: usize,
    /// Users who come alone, before the crowd and again after it.
    pub idle: usize,
    /// Time of a round of the echo, and of an operation that can be repeated.
    pub time: Duration,
    /// Time of the naive payments.
    pub naive: Duration,
}

impl Plan {
    fn new(quick: bool) -> Self {
        let seconds = Duration::from_secs;
        match quick {
            true => {
                let time = Duration::from_millis(700);
                Self { rounds: 3, slice: 8_000, warm: 2_000, idle: 100, time, naive: seconds(3) }
            }
            false => Self { rounds: 5, slice: 25_000, warm: 5_000, idle: 300, time: seconds(2), naive: seconds(10) },
        }
    }

    /// Everybody.
    fn users(&self) -> usize {
        self.first_comers().end
    }

    /// Those who call under load.
    fn crowd(&self) -> Range<usize> {
        0..self.warm + self.rounds * self.slice
    }

    /// Those who come alone when the crowd's rows are there.
    fn loners(&self) -> Range<usize> {
        let first = self.crowd().end;
        first..first + self.idle
    }

    /// Those who come alone when nothing is there.
    fn first_comers(&self) -> Range<usize> {
        let first = self.loners().end;
        first..first + self.idle
    }
}

/// One engine being measured.
pub struct Bench<'a> {
    plan: Plan,
    common: &'a Common,
    deployment: Deployment,
    postgres: Option<&'a Postgres>,
    world: World,
    calls: Calls,
    echo: Vec<Channel>,
    progress: ProgressBar,
}

/// Measures all operations on the chosen engines.
pub async fn run(common: &Common) -> Result<(), Failure> {
    let engines = common.engine.unwrap_or(EngineChoice::Both).engines();
    let postgres = match engines.contains(&Engine::Postgres) {
        true => Some(Postgres::start(common.postgres_url.as_deref()).await?),
        false => None,
    };
    let echo = EchoProcess::start()?;
    let mut report = Report::new(common);
    for engine in engines {
        let postgres = postgres.as_ref().filter(|_| *engine == Engine::Postgres);
        let mut measured = Bench::start(common, *engine, postgres, &echo).await?.measure(*engine).await?;
        println!("{}", report::text(&measured));
        if !common.quick {
            measured.growth = Some(growth::measure(common, &Growth::default(), *engine, postgres).await?);
        }
        if let Some(growth) = &measured.growth {
            println!("{}", growth::text(growth));
        }
        report.engines.push(measured);
    }
    if let Some(postgres) = &postgres {
        postgres.tidy().await?;
    }
    if let Some(file) = &common.json {
        fs::write(file, serde_json::to_string_pretty(&report)?)?;
    }
    let broken = report.engines.iter().map(|engine| engine.checks.iter().filter(|check| !check.holds).count());
    match broken.sum::<usize>() {
        0 => Ok(()),
        count => Err(format!("{count} checks do not hold, see above").into()),
    }
}

impl<'a> Bench<'a> {
    async fn start(
        common: &'a Common,
        engine: Engine,
        postgres: Option<&'a Postgres>,
        echo: &EchoProcess,
    ) -> Result<Self, Failure> {
        let plan = Plan::new(common.quick);
        let deployment = Deployment::start(engine, postgres, &FLAGS).await?;
        let (address, admin) = (deployment.address.to_string(), deployment.admin.to_string());
        let world = World::new(&address, &admin, common.connections, plan.users()).await?;
        let echo = world::connect(&echo.address.to_string(), common.connections).await?;
        let calls = Calls::new(CONCERT, world.users.clone(), common.request_ids);
        let steps = MEASURED * (plan.rounds as u64 + 1);
        let style = ProgressStyle::with_template("{prefix:<10} {bar:30} {elapsed_precise} {wide_msg}")?;
        let progress = ProgressBar::new(steps).with_style(style).with_prefix(engine.name());
        progress.enable_steady_tick(Duration::from_millis(200));
        Ok(Self { plan, common, deployment, postgres, world, calls, echo, progress })
    }

    async fn measure(&self, engine: Engine) -> Result<EngineReport, Failure> {
        let mut report = EngineReport::new(engine);
        report.commit_p50_ms = self.commit(engine).await?;
        self.set_up().await?;
        idle::fresh(self, &mut report.idle).await?;
        self.money(&mut report).await?;
        self.queue(&mut report).await?;
        self.seats(&mut report).await?;
        self.pay(&mut report).await?;
        report.checks = checks::run(&self.world, &self.calls, self.plan.loners().end).await?;
        report.complain(&self.deployment.complaints());
        if let Some(postgres) = self.postgres {
            self.progress.set_message("naive payments");
            report.naive_payments = naive::payments(postgres, self.plan.naive).await?;
        }
        self.progress.finish_and_clear();
        Ok(report)
    }

    /// The database's own commit, before anything else keeps the machine busy.
    async fn commit(&self, engine: Engine) -> Result<f64, Failure> {
        self.progress.set_message("a commit alone");
        let dir = tempfile::tempdir()?;
        naive::commit_p50_ms(&deployment::fresh_url(engine, self.postgres, &dir).await?).await
    }

    async fn set_up(&self) -> Result<(), Failure> {
        self.progress.set_message("venues and dates");
        let (world, users) = (&self.world, self.plan.users() as u32);
        // One more than there are users, so that the date is still listed when each holds one.
        world.create_venue("bench-large", users + 1).await?;
        world.create_venue("bench-small", SMALL_SEATS).await?;
        world.create_concert(FRESH_CONCERT).await?;
        world.add_performance(FRESH_CONCERT, LARGE_DATE, "bench-large").await?;
        world.create_concert(CONCERT).await?;
        for (date, venue) in [(LARGE_DATE, "bench-large"), (SMALL_DATE, "bench-small"), (CONTESTED_DATE, "bench-small")]
        {
            world.add_performance(CONCERT, date, venue).await?;
        }
        Ok(())
    }

    async fn money(&self, report: &mut EngineReport) -> Result<(), Failure> {
        self.progress.set_message("wallets");
        let call = self.calls.open_wallet(&Measure::default());
        self.world.for_users(self.plan.crowd(), "OpenWallet", &self.world.open_wallet()).await?;
        idle::loaded(self, &mut report.idle, "OpenWallet", &call).await?;

        let measure = Measure::default();
        let call = self.calls.charge_wallet(&measure);
        let spec = Spec::once("ChargeWallet", "wallet.charge", 0.35, call.clone(), measure);
        report.operations.push(self.under_load(&spec).await?);
        idle::loaded(self, &mut report.idle, "ChargeWallet", &call).await
    }

    async fn queue(&self, report: &mut EngineReport) -> Result<(), Failure> {
        let measure = Measure::default();
        let call = self.calls.issue_token(&measure);
        let goal = if report.engine == Engine::Sqlite { 0.45 } else { 0.40 };
        let spec = Spec::once("IssueToken", "queue.issue", goal, call.clone(), measure);
        report.operations.push(self.under_load(&spec).await?);
        idle::loaded(self, &mut report.idle, "IssueToken", &call).await?;
        // Whoever failed above gets a token now; the others get theirs again.
        self.world.for_users(0..self.plan.loners().end, "IssueToken", &call).await?;
        // What polling reads may be 250 ms old.
        tokio::time::sleep(Duration::from_millis(500)).await;

        let measure = Measure::default();
        let call = self.calls.get_position(&measure);
        let spec = Spec::over("GetPosition, WAITING", "queue.find", 0.80, call, measure);
        report.operations.push(self.under_load(&spec).await?);

        self.progress.set_message("waiting for admission");
        self.world.open_sale(CONCERT).await?;
        self.world.wait_until_admitted(CONCERT, ADMISSION_LIMIT).await
    }

    async fn seats(&self, report: &mut EngineReport) -> Result<(), Failure> {
        let measure = Measure::default();
        let call = self.calls.list_seats(&measure);
        let spec = Spec::over("ListSeats, 50 seats", "concert.seats", 0.50, call, measure);
        report.operations.push(self.under_load(&spec).await?);

        let (measure, winners) = (Measure::default(), Winners::default());
        let spec = Spec::contested("HoldSeats, one seat", "reservation.hold", 0.50, measure.clone(), {
            let winners = winners.clone();
            move |calls: &Calls, seat| calls.hold_contested_seat(&measure, seat, &winners)
        });
        report.operations.push(round::interleave(self, &spec, Some(&winners)).await?);

        let measure = Measure::default();
        let call = self.calls.hold_own_seat(&measure);
        let spec = Spec::once("HoldSeats, own seat", "reservation.hold", 0.35, call.clone(), measure);
        report.operations.push(self.under_load(&spec).await?);
        idle::loaded(self, &mut report.idle, "HoldSeats", &call).await?;

        // Now that every seat is held, counting the free ones is hardest.
        self.progress.set_message("the rush of the first second");
        let call = self.calls.list_performances(&Measure::default());
        report.rush = Some(rush::run(&self.world, self.plan.crowd(), &call).await?);
        Ok(())
    }

    async fn pay(&self, report: &mut EngineReport) -> Result<(), Failure> {
        let measure = Measure::default();
        let call = self.calls.pay(&measure);
        let goal = if report.engine == Engine::Sqlite { 0.20 } else { 0.25 };
        let spec = Spec::once("Pay", "payment.pay", goal, call.clone(), measure);
        report.operations.push(self.under_load(&spec).await?);
        idle::loaded(self, &mut report.idle, "Pay", &call).await
    }

    async fn under_load(&self, spec: &Spec) -> Result<Figures, Failure> {
        round::interleave(self, spec, None).await
    }
}

/// So many calls in flight, as asked for on the command line.
async fn full_load(
    bench: &Bench<'_>,
    channels: &[Channel],
    supply: &Supply,
    call: &load::Call,
) -> Result<load::Round, Failure> {
    load::closed_loop(channels, bench.common.in_flight, supply, call).await
}
