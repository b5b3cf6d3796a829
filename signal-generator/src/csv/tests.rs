use super::*;

fn read(text: &[u8], tail: Tail) -> (End, Vec<String>) {
    let mut seen = Vec::new();
    let end = read_bars(text, tail, |line, bar| {
        seen.push(match bar {
            Ok(bar) => format!("{line}: {} {} {} {} {} {}", bar.date, bar.open, bar.high, bar.low, bar.close, bar.volume),
            Err(bad) => format!("{line}: {bad}"),
        });
    });
    (end.unwrap(), seen)
}

#[test]
fn every_accepted_form_of_the_file_reads_alike() {
    let files: [&[u8]; 8] = [
        b"date,open,high,low,close,volume\n2024-01-02,1,4,0.5,3,100\n",
        b"date,open,high,low,close,volume\n2024-01-02,1,4,0.5,3,100",
        b"\xef\xbb\xbfDate,Open,High,Low,Close,Volume\r\n2024-01-02,1,4,0.5,3,100\r\n",
        b"Date,Open,High,Low,Close,Adj Close,Volume\n2024-01-02,1,4,0.5,3,2.9,100\n",
        b"volume , close,low,high,open,date\n100,3, 0.5 ,4,1,2024-01-02\n",
        b"\"Datetime\",\"Open\",\"High\",\"Low\",\"Close\",\"Vol\"\n\"2024-01-02 00:00:00-05:00\",\"1\",\"4\",\"0.5\",\"3\",\"1e2\"\n",
        b"timestamp,open,high,low,close,volume\n2024-01-02T00:00:00Z,1.0,4.0,0.50,3.00,100\n",
        b"date,open,high,low,close,volume\n2024-01-02,+1,4,.5,3,100.0\n",
    ];
    for file in files {
        assert_eq!(read(file, Tail::Take).1, ["2: 2024-01-02 1 4 0.5 3 100"], "{}", String::from_utf8_lossy(file));
    }
    let headerless = b"2024-01-02,1,4,0.5,3,100\n\n2024-01-03,1,4,0.5,3,100\n";
    assert_eq!(read(headerless, Tail::Take).1, ["1: 2024-01-02 1 4 0.5 3 100", "3: 2024-01-03 1 4 0.5 3 100"]);
}

#[test]
fn a_bad_line_is_named_with_its_reason_and_the_rest_goes_on() {
    let cases: [(&[u8], &str); 9] = [
        (b"2024-01-02,1,4,0.5,3", "5 fields instead of 6"),
        (b"2024-01-02,1,4,0.5,3,1,2", "7 fields instead of 6"),
        (b"02.01.2024,1,4,0.5,3,100", "date \"02.01.2024\" is not YYYY-MM-DD"),
        (b"2024-02-30,1,4,0.5,3,100", "date \"2024-02-30\" is not YYYY-MM-DD"),
        (b"2024-01-02,null,4,0.5,3,100", "open \"null\" is not a number"),
        (b"2024-01-02,1,4,0.5,,100", "close \"\" is not a number"),
        (b"2024-01-02,1,4,0.5,3,\"1,000\"", "7 fields instead of 6"),
        (b"2024-01-02;1;4;0.5;3;100", "1 fields instead of 6"),
        (b"2024-01-02,1,4,0.5,\xff,100", "not UTF-8"),
    ];
    for (line, reason) in cases {
        let file = [b"date,open,high,low,close,volume\n", line, b"\n2024-01-03,1,4,0.5,3,100\n"].concat();
        assert_eq!(read(&file, Tail::Take).1, [format!("2: {reason}"), "3: 2024-01-03 1 4 0.5 3 100".to_owned()]);
    }
}

#[test]
fn an_endless_line_is_skipped_without_being_held() {
    let long = vec![b'9'; 1_000_000];
    let file = [b"date,open,high,low,close,volume\n".as_slice(), &long, b"\n2024-01-03,1,4,0.5,3,100\n"].concat();
    assert_eq!(read(&file, Tail::Take).1, ["2: longer than 65536 bytes", "3: 2024-01-03 1 4 0.5 3 100"]);
}

#[test]
fn a_file_without_the_needed_columns_is_one_complaint() {
    let cases: [(&[u8], &str); 3] = [
        (
            b"date,open,high,low\n2024-01-02,1,4,0.5\n2024-01-03,1,4,0.5\n",
            "1: the header lacks the column(s) close, volume; the file is skipped",
        ),
        (
            b"\n# prices\n2024-01-02,1,4,0.5,3,100\n",
            "2: the header lacks the column(s) date, open, high, low, close, volume; the file is skipped",
        ),
        (b"date,open,high,low,close,close,volume\n", "1: the header names the column close twice; the file is skipped"),
    ];
    for (file, complaint) in cases {
        assert_eq!(read(file, Tail::Take).1, [complaint]);
    }
}

#[test]
fn a_half_written_last_line_is_left_or_taken_as_told() {
    let file = b"date,open,high,low,close,volume\n2024-01-02,1,4,0.5,3,100\n2024-01-03,1,4,0.5,3,10";
    assert_eq!(read(file, Tail::Leave), (End::TailLeft, vec!["2: 2024-01-02 1 4 0.5 3 100".to_owned()]));
    assert_eq!(read(file, Tail::Take).1.len(), 2);
    assert_eq!(read(b"", Tail::Leave), (End::Complete, vec![]));
}
