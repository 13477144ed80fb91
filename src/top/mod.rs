//! `throng top`: a tracker at work, in a terminal.
//!
//! One thread listens to the tracker's admin listener (`source`) and sends what it hears; the
//! calling thread keeps what was said last (`Screen`), draws it (`view`) and looks at the keys.
//! Nothing is asked of the tracker that the dashboard does not ask.

mod source;
mod view;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

pub use source::{Target, TargetError};

use self::source::{Heard, News, Size, Status, Swarm};

/// Seconds of which the screen has a line.
const HISTORY: usize = 240;
/// How long a key is waited for before the screen is drawn again.
const PATIENCE: Duration = Duration::from_millis(200);
/// After this long without a sample the figures are called old.
const STALE: Duration = Duration::from_secs(3);

/// The terminal cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the terminal: {0}")]
pub struct TopError(#[from] io::Error);

/// Shows what a tracker does until somebody presses q, or `stop` is true; then the terminal is as
/// it was before.
///
/// # Errors
/// If the terminal cannot be written to or read from.
pub fn run(target: Target, stop: &AtomicBool) -> Result<(), TopError> {
    let (sender, heard) = channel();
    let name = target.to_string();
    // It ends with the process: nothing has to be left in order behind it.
    std::thread::Builder::new()
        .name("source".to_owned())
        .spawn(move || source::listen(&target, &sender))?;
    let mut terminal = ratatui::try_init()?;
    let ended = show(&mut terminal, &heard, Screen::new(name), stop);
    ratatui::try_restore()?;
    ended
}

fn show(
    terminal: &mut DefaultTerminal,
    heard: &Receiver<Heard>,
    mut screen: Screen,
    stop: &AtomicBool,
) -> Result<(), TopError> {
    while !stop.load(Ordering::Relaxed) {
        loop {
            match heard.try_recv() {
                Ok(heard) => screen.take(heard),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    return Err(io::Error::other("the source has gone").into());
                }
            }
        }
        terminal.draw(|frame| view::draw(frame, &screen))?;
        if event::poll(PATIENCE)? && is_end(&event::read()?) {
            break;
        }
    }
    Ok(())
}

/// Whether somebody wants to leave.
fn is_end(event: &Event) -> bool {
    let Event::Key(KeyEvent { code, modifiers, kind: KeyEventKind::Press, .. }) = event else {
        return false;
    };
    match code {
        KeyCode::Char('q') | KeyCode::Esc => true,
        KeyCode::Char('c') => modifiers.contains(KeyModifiers::CONTROL),
        _ => false,
    }
}

/// What is known of the tracker.
#[derive(Debug)]
struct Screen {
    /// How it is called.
    target: String,
    status: Option<Status>,
    news: Option<Box<News>>,
    /// When that came.
    heard: Option<Instant>,
    /// Announces a second, all transports together, the newest last.
    announces: Vec<u64>,
    /// The largest swarms.
    swarms: Vec<Swarm>,
    sizes: Vec<Size>,
    /// Why nothing is heard.
    trouble: Option<String>,
}

impl Screen {
    const fn new(target: String) -> Self {
        Self {
            target,
            status: None,
            news: None,
            heard: None,
            announces: Vec::new(),
            swarms: Vec::new(),
            sizes: Vec::new(),
            trouble: None,
        }
    }

    fn take(&mut self, heard: Heard) {
        match heard {
            Heard::Status(status) => self.status = Some(status),
            Heard::News(news) => {
                self.announces.push(view::whole(news.sample.announces()));
                let surplus = self.announces.len().saturating_sub(HISTORY);
                self.announces.drain(..surplus);
                self.news = Some(news);
                self.heard = Some(Instant::now());
                self.trouble = None;
            }
            Heard::Swarms(swarms) => (self.swarms, self.sizes) = (swarms.swarms, swarms.sizes),
            Heard::Trouble(trouble) => self.trouble = Some(trouble),
        }
    }

    /// Whether what is shown is what happens now.
    fn is_live(&self) -> bool {
        self.heard.is_some_and(|heard| heard.elapsed() < STALE)
    }
}
