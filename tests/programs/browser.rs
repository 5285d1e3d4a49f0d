//! Chromium, with pages that want much of it, and pages that want what they shall not have.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::guide::{self, Block};
use crate::machine::{Machine, Where, is_here, said};

/// How many parts the large page has.
const PARTS: usize = 60;

pub(crate) fn pages(machine: &Machine, place: Where) {
    if !is_here("chromium") {
        return;
    }
    let dir = machine.directory_of("pages", place);
    many_parts(machine, &dir, place);
    attacks(machine, &dir, place);
    rebound(machine, &dir, place);
}

/// A page of many files, some at another site, and a WebSocket.
fn many_parts(machine: &Machine, dir: &Path, place: Where) {
    for part in 0..PARTS {
        machine.page(&format!("part-{part}"), &format!("{part} ").repeat(2000));
    }
    let script = format!(
        "const parts = [...Array({PARTS}).keys()].map(async i => {{
             const site = i % 2 ? 'http://www.example.org' : 'http://example.org';
             const mode = i % 2 ? 'no-cors' : 'cors';
             const got = await (await fetch(`${{site}}/part-${{i}}`, {{mode}})).text();
             return i % 2 || got === `${{i}} `.repeat(2000);
         }});
         const said = new Promise((done, fail) => {{
             const socket = new WebSocket('ws://example.org/echo');
             socket.onopen = () => socket.send('a message');
             socket.onmessage = event => done(event.data);
             socket.onerror = () => fail('the WebSocket failed');
         }});
         const all = (await Promise.all(parts)).every(whole => whole);
         return `${{all}}, ${{await said}}`;"
    );
    assert_eq!(
        report(machine, dir, place, "parts.html", &script),
        "true, a message"
    );
}

/// What a page could try with the port: each must fail, and nothing may come out at the other end.
fn attacks(machine: &Machine, dir: &Path, place: Where) {
    // "\\x05\\x01\\x00" and a CONNECT to example.org:80 with a request behind it, as a form and as a fetch would send it.
    let script = r"const port = 'http://127.0.0.1:9350';
         const request = 'GET /stolen HTTP/1.0\r\n\r\n';
         const spelled = '\x05\x01\x00\x05\x01\x00\x03\x0bexample.org\x00\x50' + request;
         const by_connect = 'CONNECT example.org:80 HTTP/1.1\r\n\r\n' + request;
         const tries = {
             get: () => fetch(port + '/'),
             opaque: () => fetch(port + '/', {mode: 'no-cors'}),
             path: () => fetch(port + '/http://example.org/stolen', {mode: 'no-cors'}),
             socks: () => fetch(port + '/', {method: 'POST', mode: 'no-cors', body: spelled}),
             connect: () => fetch(port + '/', {method: 'POST', mode: 'no-cors', body: by_connect}),
             socket: () => new Promise((done, fail) => {
                 const socket = new WebSocket('ws://127.0.0.1:9350/');
                 socket.onopen = done;
                 socket.onerror = fail;
             }),
         };
         const held = [];
         for (const [name, one] of Object.entries(tries)) {
             try { await one(); held.push(name + ' got an answer'); } catch { }
         }
         const form = document.createElement('form');
         Object.assign(form, {method: 'POST', action: port + '/', enctype: 'text/plain', target: 'frame'});
         const field = document.createElement('textarea');
         field.name = by_connect;
         field.value = spelled;
         form.append(field);
         const frame = document.createElement('iframe');
         frame.name = 'frame';
         document.body.append(form, frame);
         const sent = new Promise(done => { frame.onload = done; });
         form.submit();
         await sent;
         return held.join(', ') || 'nothing';";
    assert_eq!(
        report(machine, dir, place, "attacks.html", script),
        "nothing"
    );
    assert_eq!(machine.kept("stolen"), None);
    // The test can fail: the same file by the way that is allowed.
    said(machine.shell(
        dir,
        place,
        "curl --silent --proxy http://127.0.0.1:9350 http://example.org/stolen",
    ))
    .unwrap();
    assert!(machine.kept("stolen").is_some());
    machine.forget("stolen");
}

/// A name that has been turned to this machine (DNS rebinding) gets no answer, and `localhost` does.
fn rebound(machine: &Machine, dir: &Path, place: Where) {
    let open = |host: &str| {
        let line = format!(
            "chromium --user-data-dir=./rebound --host-resolver-rules='MAP rebound.example 127.0.0.1' http://{host}:9350/"
        );
        said(machine.shell(dir, place, &line)).unwrap()
    };
    let (at_home, elsewhere) = (open("localhost"), open("rebound.example"));
    assert!(at_home.contains("Cepa"), "{at_home}");
    // Headless, Chromium shows nothing where nothing was answered.
    assert_eq!(elsewhere, "");
}

/// Opens a page whose script reports what comes of it, with the options of docs/clients.md.
fn report(machine: &Machine, dir: &Path, place: Where, name: &str, script: &str) -> String {
    let page = format!(
        "<!DOCTYPE html><title>{name}</title><body><script>
         (async () => {{ {script} }})().catch(error => `failed: ${{error}}`)
             .then(body => fetch('http://example.org/{name}', {{method: 'POST', body}}));
         </script>"
    );
    machine.page(name, &page);
    let guide = guide::read()
        .into_iter()
        .find(|section| section.title == "Chromium")
        .unwrap();
    let line = guide.blocks.iter().find_map(|block| match block {
        Block::Shell(line) => {
            Some(line.replace("http://example.org/", &format!("http://example.org/{name}")))
        }
        _ => None,
    });
    // What newer versions of Chromium ask the user about first is granted: the port must hold without.
    let line = line.unwrap().replace(
        "chromium ",
        "DEBUG=--remote-debugging-port=0 exec chromium --disable-features=LocalNetworkAccessChecks,BlockInsecurePrivateNetworkRequests ",
    );
    let mut browser = machine
        .shell(dir, place, &line)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let result = machine.wait_for("result");
    machine.forget("result");
    // `timeout` passes the signal on to the browser.
    let stop = Command::new("kill")
        .arg(browser.id().to_string())
        .status()
        .unwrap();
    assert!(stop.success());
    browser.wait().unwrap();
    result
}
