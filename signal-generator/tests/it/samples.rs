use crate::program::{crosses_of, csv, run};
use jiff::civil::date;
use signal_generator::{Bar, RandomWalk};
use std::path::Path;

#[test]
fn the_samples_are_the_seeded_walk_and_hold_both_crosses() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("samples");
    for ticker in ["AAPL", "MSFT"] {
        let bars: Vec<Bar> = RandomWalk::new(12, ticker, date(2023, 1, 2)).take(500).collect();
        let file = std::fs::read_to_string(folder.join(format!("{ticker}.csv"))).unwrap();
        assert!(file == csv(&bars), "{ticker}.csv is not what examples/sample_bars.rs prints");
        for kind in ["golden_cross", "death_cross"] {
            assert!(crosses_of(ticker, &bars).iter().any(|cross| cross.1 == kind), "{ticker} has no {kind}");
        }
    }
    let (out, _) = run(&["replay", "--print", "--death-cross", "--csv", folder.to_str().unwrap()], 0);
    assert!(out.lines().count() >= 4, "{out}");
}
