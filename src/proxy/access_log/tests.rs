//! Entries from the request to the sink.

use std::sync::mpsc;

use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;

/// Hands every line that is written to a test.
struct Lines(mpsc::Sender<Vec<u8>>);

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let _ = self.0.send(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_entry_is_written_once_when_it_ends_and_only_for_the_sample() {
    let (lines, written) = mpsc::channel();
    let log = Arc::new(AccessLog::writing(Lines(lines), AccessLogFormat::Json, 250));
    let request = Request::get("http://a.test/x?y").body(()).unwrap();
    let client = "192.0.2.1".parse().unwrap();
    let mut rng = SmallRng::seed_from_u64(7);
    let begun = (0..1000).filter(|number| {
        let entry = log.begin(&request, client, Instant::now(), &mut rng);
        entry.is_some_and(|mut entry| {
            if number % 2 == 0 {
                entry.sent(5);
                entry.conclude(Outcome {
                    request_id: HeaderValue::from_static("id"),
                    status: StatusCode::OK,
                    route: Some("r".into()),
                    upstream_time: Some(Duration::from_millis(2)),
                    limit: Some(Verdict::Admitted),
                    refusal: None,
                });
                entry.complete();
            }
            true
        })
    });
    let begun = begun.count();
    // A quarter of them, within six standard deviations.
    assert!((168..=332).contains(&begun), "{begun}");
    drop(log);
    let lines: Vec<serde_json::Value> = written
        .iter()
        .map(|line| serde_json::from_slice(&line).unwrap())
        .collect();
    assert_eq!(lines.len(), begun);
    for line in lines {
        assert_eq!((&line["host"], &line["path"]), (&"a.test".into(), &"/x?y".into()));
        match line["status"].as_u64() {
            Some(200) => assert_eq!((&line["bytes"], &line["complete"]), (&5.into(), &true.into())),
            status => assert_eq!((status, &line["complete"]), (Some(499), &false.into())),
        }
    }
}
