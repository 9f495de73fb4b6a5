//! The console, as a person sees it: a real browser, a real node, every view.

#[path = "support/admin.rs"]
mod admin;
#[path = "support/chromium.rs"]
mod chromium;
#[path = "support/nodes.rs"]
mod nodes;

use std::path::PathBuf;

use admin::{AdminPort, fill};
use chromium::Page;
use nodes::Nodes;
use palisade::{Engine, GroupId, Role};
use palisade_proto::common::v1 as common;
use palisade_proto::map::v1::map_client::MapClient;
use palisade_proto::map::v1::{GetRequest, PutRequest};
use palisade_server::admin::Shows;
use tonic::transport::Channel;

/// Each view, and the tables that must have rows there.
const VIEWS: [(&str, &[&str]); 7] = [
    ("overview", &["Members"]),
    ("groups", &["Groups", "Voters"]),
    ("log", &["Entries"]),
    ("projections", &["Projections", "Resources"]),
    ("latency", &["The last minute"]),
    ("fences", &["Writers"]),
    ("audit", &["Audit"]),
];

/// Writes and reads over gRPC, so that there are latencies to see.
async fn call(nodes: &Nodes) {
    let address = format!("http://{}", nodes.addresses[0]);
    let channel = Channel::from_shared(address).unwrap().connect().await.unwrap();
    let mut maps = MapClient::new(channel);
    let map = Some(common::Resource {
        name: "stock".into(),
        schema: "count.v1".into(),
        epoch: 0,
        caller: None,
    });
    for number in 0..50_u64 {
        let (key, value) = (format!("item-{number}"), number.to_be_bytes().to_vec());
        let put = PutRequest {
            map: map.clone(),
            key: key.clone().into(),
            value: value.into(),
            ..Default::default()
        };
        maps.put(put).await.unwrap();
        let get = GetRequest { map: map.clone(), keys: vec![key.into()], options: None, at: 0 };
        maps.get(get).await.unwrap();
    }
}

/// Makes the node lead a group: a leader alone knows how the voters are.
async fn lead(engine: &Engine) {
    let group = engine.group(GroupId::new(1)).unwrap();
    while group.status().await.unwrap().role != Role::Leader {
        group.transfer_leadership(engine.node()).unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// Where pictures of the views are left, if somebody wants to look at them.
fn pictures() -> Option<PathBuf> {
    let dir = PathBuf::from(std::env::var_os("PALISADE_SCREENSHOTS")?);
    std::fs::create_dir_all(&dir).unwrap();
    Some(dir)
}

/// What is wrong with the view that is shown: an error, or a table that is missing or empty.
const WRONG: &str = "((wanted) => {
    const wrong = [...document.querySelectorAll('[role=alert]')].map((found) => found.textContent);
    for (const caption of wanted) {
        const tables = [...document.querySelectorAll('#panel table')];
        const table = tables.find((found) => found.caption.textContent === caption);
        if (!table) wrong.push(`no table ${caption}`);
        else if (!table.tBodies[0].rows.length || table.querySelector('.empty')) wrong.push(`${caption} is empty`);
        else if ([...table.tBodies[0].rows].some((row) => !row.textContent.trim())) wrong.push(`${caption}: a row is empty`);
    }
    return wrong;
})";

fn look_at(page: &mut Page, view: &str, wanted: &[&str]) {
    page.click(&format!("#tab-{view}"));
    page.wait_for(&format!("document.body.dataset.shown === {view:?}"));
    let wrong = page.eval(&format!("{WRONG}({wanted:?})"));
    assert_eq!(wrong, serde_json::json!([]), "{view}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_view_shows_what_there_is() {
    let nodes = Nodes::start(3).await;
    fill(&nodes.engines[0]).await;
    lead(&nodes.engines[0]).await;
    let port = AdminPort::of(&nodes.observed[0], Shows::Everything).await;
    call(&nodes).await;
    let url = port.url("/");
    let pictures = pictures();
    let drive = move || {
        let mut page = Page::open(1280, 900);
        page.go(&url);
        page.wait_for("document.body.dataset.shown === 'overview'");
        // The first point of the history.
        page.wait_for(
            "fetch('/api/v1/metrics').then((a) => a.json()).then((a) => a.points.length > 1)",
        );
        for (view, wanted) in VIEWS {
            look_at(&mut page, view, wanted);
        }
        assert_eq!(page.eval("document.querySelector('#state').textContent"), "ready");

        // What was stored is text, whatever it says.
        look_at(&mut page, "log", &["Entries"]);
        assert_eq!(page.eval("document.querySelector('select[name=resource]').value"), "orders");
        let text = page.eval("document.querySelector('#panel tbody').innerText");
        let text = text.as_str().unwrap();
        for shown in ["<b>oak & iron</b>", "a line of plain text", "00 01 02 fd fe ff"] {
            assert!(text.contains(shown), "{shown}: {text}");
        }
        look_at(&mut page, "audit", &["Audit"]);
        let text = page.eval("document.querySelector('#panel tbody').innerText");
        let text = text.as_str().unwrap();
        for shown in ["not allowed", "reports", "orders", "unreadable"] {
            assert!(text.contains(shown), "{shown}: {text}");
        }
        // Latencies were measured and are drawn.
        look_at(&mut page, "latency", &[]);
        assert!(page.eval("document.querySelectorAll('svg.plot').length").as_u64() == Some(4));
        assert!(
            page.eval("document.querySelectorAll('svg.plot .s0, svg.plot .d0').length > 1") == true
        );
        // By keyboard, too.
        page.eval("document.querySelector('#tab-latency').focus()");
        for kind in ["keyDown", "keyUp"] {
            let key =
                serde_json::json!({ "type": kind, "key": "ArrowRight", "code": "ArrowRight" });
            page.call("Input.dispatchKeyEvent", key);
        }
        page.wait_for("document.body.dataset.shown === 'fences'");

        if let Some(dir) = pictures {
            for theme in ["light", "dark"] {
                let features =
                    serde_json::json!([{ "name": "prefers-color-scheme", "value": theme }]);
                page.call(
                    "Emulation.setEmulatedMedia",
                    serde_json::json!({ "features": features }),
                );
                for (view, wanted) in VIEWS {
                    look_at(&mut page, view, wanted);
                    page.shoot(&dir.join(format!("{view}-{theme}.png")));
                }
            }
        }
        assert_eq!(page.complaints(), [""; 0]);

        // The page says so when the node is gone, and does not show what was as if it were.
        page.eval("window.fetch = () => Promise.reject(new Error('nobody answers'))");
        page.wait_for("document.querySelector('[role=alert]')");
        assert_eq!(page.eval("document.querySelector('#state').textContent"), "no answer");
    };
    tokio::task::spawn_blocking(drive).await.unwrap();
    drop(port);
    nodes.close().await;
}
