//! Does a network policy hold, also for connections that were open before it came?

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bench::lab::tools::Ping;
use bench::lab::traffic::{TcpConnection, TcpEcho, connect};
use bench::lab::wait::retry;

use super::cluster::{Cluster, manifest};
use super::reach::ANSWER;
use super::report::{Report, ms};

/// What the policy allows.
const OPEN: u16 = 8080;
/// What it does not mention.
const CLOSED: u16 = 9090;
/// So long nothing must come through for it to be denied.
const SILENCE: Duration = Duration::from_millis(600);
const LIVE: Duration = Duration::from_secs(5);

/// pod3 is `web`, pod1 `shop`, pod4 `guest`: shop may reach web on one port, nobody else may.
pub(crate) fn check(cluster: &Cluster, report: &mut Report) -> anyhow::Result<()> {
    let web = cluster.pod("pod3")?;
    let open = SocketAddr::new(web.ip(), OPEN);
    let closed = SocketAddr::new(web.ip(), CLOSED);
    let _services = (TcpEcho::start(web.netns(), open)?, TcpEcho::start(web.netns(), closed)?);
    let (shop, guest) = (cluster.pod("pod1")?.netns(), cluster.pod("pod4")?.netns());

    let mut of_shop = connect(shop, open, ANSWER)?;
    let mut of_guest = connect(guest, open, ANSWER)?;
    of_shop.exchange(ANSWER)?;
    of_guest.exchange(ANSWER)?;
    report.check("before: everybody reaches web", Ok("two connections stay open".to_owned()));

    let node = cluster.nodes.first().context("four nodes")?;
    let start = Instant::now();
    node.apply(&manifest("networkpolicy.yaml"))?;
    let denied = retry(LIVE, "guest to be shut out", || {
        ensure!(connect(guest, open, SILENCE).is_err(), "guest still connects");
        Ok(format!("no answer, {} after apply", ms(start.elapsed())))
    });
    report.check("guest → web:8080 is denied", denied);
    report.check("guest's open connection is cut off", silent(&mut of_guest));
    report.check(
        "shop's open connection goes on",
        of_shop.exchange(ANSWER).map(|took| format!("echo in {}", ms(took))),
    );
    report.check(
        "shop → web:8080 is allowed",
        connect(shop, open, ANSWER)
            .and_then(|mut connection| connection.exchange(ANSWER))
            .map(|took| format!("echo in {}", ms(took))),
    );
    report.check(
        "shop → web:9090 is denied",
        match connect(shop, closed, SILENCE) {
            Ok(_) => Err(anyhow::anyhow!("it connected")),
            Err(_) => Ok("no answer".to_owned()),
        },
    );
    report.check("web's own connections and their replies pass", replies_pass(cluster));

    node.ctl(&["delete".as_ref(), "-f".as_ref(), manifest("networkpolicy.yaml").as_os_str()])?;
    let again = retry(LIVE, "guest to be let in again", || {
        connect(guest, open, SILENCE)?.exchange(ANSWER).map(|took| format!("echo in {}", ms(took)))
    });
    report.check("policy deleted: guest → web:8080 passes again", again);
    Ok(())
}

fn silent(connection: &mut TcpConnection) -> anyhow::Result<String> {
    match connection.exchange(SILENCE) {
        Ok(took) => Err(anyhow::anyhow!("it still exchanged a message, in {}", ms(took))),
        Err(_) => Ok(format!("nothing in {}", ms(SILENCE))),
    }
}

fn replies_pass(cluster: &Cluster) -> anyhow::Result<String> {
    let (web, guest) = (cluster.pod("pod3")?, cluster.pod("pod4")?);
    let result = Ping::default().run(web.netns(), guest.ip())?;
    ensure!(result.is_complete(), "{}", result.text);
    let refused = Ping { count: 1, timeout: SILENCE, ..Ping::default() };
    let result = refused.run(guest.netns(), web.ip())?;
    ensure!(result.received == 0, "but guest pings web: {}", result.text);
    Ok("web pings guest, guest cannot ping web".to_owned())
}
