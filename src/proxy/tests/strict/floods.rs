//! HTTP/2 clients that send frames to no end. What h2 bounds by itself is tested from outside
//! (`scripts/conformance attacks`).

use super::*;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// HEADERS of `GET http://a/`, as literal fields without indexing and static entries (RFC 7541 §6).
fn get(stream: u32) -> Vec<u8> {
    frame(1, 5, stream, &[0x82, 0x86, 0x84, 0x01, 1, b'a'])
}

/// Sends the preface, then `frames` until the proxy closes. Answers the error of its GOAWAY.
async fn flood(gateway: &Gateway, mut frames: impl FnMut(u32) -> Vec<u8>) -> Option<u32> {
    let client = gateway.connect().await;
    let (mut reading, mut writing) = client.stream.into_split();
    let reader = tokio::spawn(async move {
        let mut bytes = Vec::new();
        let _ = reading.read_to_end(&mut bytes).await;
        bytes
    });
    writing.write_all(PREFACE).await.unwrap();
    writing.write_all(&frame(4, 0, 0, &[])).await.unwrap();
    for turn in 0.. {
        if writing.write_all(&frames(turn)).await.is_err() || reader.is_finished() {
            break;
        }
        tokio::task::yield_now().await;
    }
    let bytes = reader.await.unwrap();
    let mut rest = bytes.as_slice();
    let mut error = None;
    while let [a, b, c, kind, _, _, _, _, _, after @ ..] = rest {
        let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        if *kind == 7 && after.len() >= 8 {
            error = Some(u32::from_be_bytes(after[4..8].try_into().unwrap()));
        }
        rest = after.get(length..).unwrap_or_default();
    }
    error
}

#[tokio::test]
async fn a_connection_that_is_flooded_with_frames_is_closed() {
    let upstream = Recorder::new().await.upstream;
    let gateway = Gateway::start(upstream.address, "");
    let batch =
        |kind: u8, stream: u32, payload: &'static [u8]| move |_| frame(kind, 0, stream, payload).repeat(100);
    within(async {
        // The GOAWAY may be lost with the connection, whose client has not stopped sending.
        for told in [
            flood(&gateway, batch(4, 0, &[])).await,
            flood(&gateway, batch(6, 0, &[0; 8])).await,
            flood(&gateway, batch(2, 1, &[0; 5])).await,
            flood(&gateway, batch(8, 0, &[0, 0, 0, 1])).await,
            flood(&gateway, batch(0xfa, 0, &[0; 20])).await,
        ] {
            assert!(matches!(told, None | Some(11)), "{told:?}");
        }
        // Requests that are reset once they are under way.
        let resets = |turn: u32| {
            let stream = 2 * turn + 1;
            [get(stream), frame(3, 0, stream, &[0, 0, 0, 8])].concat()
        };
        let told = flood(&gateway, resets).await;
        assert!(matches!(told, None | Some(11)), "{told:?}");
        assert_eq!(
            gateway.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.status(),
            200
        );
    })
    .await;
}

#[tokio::test]
async fn a_frame_that_no_client_may_send_is_named_as_such() {
    let upstream = Recorder::new().await.upstream;
    let gateway = Gateway::start(upstream.address, "");
    within(async {
        for (bytes, error) in [
            (frame(6, 0, 0, &[0; 7]), 6),
            (frame(4, 0, 0, &[0; 5]), 6),
            (frame(4, 0, 0, &[0, 4, 0x80, 0, 0, 0]), 3),
            // A promise, and more of streams that were ended and reset.
            (frame(5, 0, 1, &[0, 0, 0, 2, 0x82]), 1),
            ([get(1), get(1)].concat(), 5),
            ([get(1), frame(0, 0, 1, b"more")].concat(), 5),
            (
                [get(1), frame(3, 0, 1, &[0, 0, 0, 8]), frame(0, 1, 1, b"")].concat(),
                5,
            ),
        ] {
            let mut once = Some(bytes.clone());
            let told = flood(&gateway, move |_| once.take().unwrap_or_default()).await;
            assert_eq!(told, Some(error), "{bytes:?}");
        }
    })
    .await;
}
