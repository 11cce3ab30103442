//! Operations of many callers share calls: what comes while [`MAX_OUT`] calls are out waits, and leaves
//! together in the next one. A service that is slow gets larger calls, not more of them.

use crate::calls::{fault, is_alone, read};
use crate::client::{Answer as HttpAnswer, CallError, Client};
use idempotency_protocol::dialect::Dialect;
use idempotency_protocol::{
    Answer, Fault, FaultCode, Operation, Request, Wait, Wire, CONTENT_TYPE, MAX_OPERATIONS,
    OPERATIONS_PATH, WAIT_PATH,
};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, Semaphore};

/// Most calls that are out at a time.
const MAX_OUT: usize = 8;

/// One service, by the tokens of two roles.
#[derive(Debug)]
pub(crate) struct Calls {
    pub gateway: Client,
    pub upstream: Client,
    started: Instant,
    dialect: Mutex<Dialect>,
    queue: Mutex<Queue>,
    out: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Queue {
    /// These free or prolong what is held, and leave first.
    settlements: VecDeque<Job>,
    acquires: VecDeque<Job>,
}

#[derive(Debug)]
struct Job {
    operation: Operation,
    teller: oneshot::Sender<Answer>,
}

impl Queue {
    fn put(&mut self, job: Job) {
        match job.operation {
            Operation::Acquire(_) => self.acquires.push_back(job),
            _ => self.settlements.push_back(job),
        }
    }

    fn is_empty(&self) -> bool {
        self.settlements.is_empty() && self.acquires.is_empty()
    }

    /// The next call, as large as the protocol allows. Acquires that nobody waits for any more are left out.
    fn take(&mut self) -> Vec<Job> {
        let mut call = Vec::new();
        while call.len() < MAX_OPERATIONS {
            let queue = match self.settlements.is_empty() {
                false => &mut self.settlements,
                true => &mut self.acquires,
            };
            let Some(next) = queue.front() else {
                break;
            };
            if is_alone(&next.operation) {
                if call.is_empty() {
                    call.extend(queue.pop_front());
                }
                break;
            }
            let wanted = |job: &Job| {
                !job.teller.is_closed() || !matches!(job.operation, Operation::Acquire(_))
            };
            call.extend(queue.pop_front().filter(wanted));
        }
        call
    }
}

impl Calls {
    pub fn new(gateway: Client, upstream: Client) -> Arc<Calls> {
        Arc::new(Calls {
            gateway,
            upstream,
            started: Instant::now(),
            dialect: Mutex::default(),
            queue: Mutex::default(),
            out: Arc::new(Semaphore::new(MAX_OUT)),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One operation, in a call that others may share.
    pub async fn one(self: &Arc<Self>, operation: Operation) -> Answer {
        let (teller, answer) = oneshot::channel();
        self.lock().put(Job { operation, teller });
        self.pump();
        let gone = || Answer::Fault(fault(FaultCode::Unavailable, "the call was given up"));
        answer.await.unwrap_or_else(|_| gone())
    }

    /// Operations that are one call, in their order.
    pub async fn in_turn(self: &Arc<Self>, operations: Vec<Operation>) -> Vec<Answer> {
        let (calls, out) = (Arc::clone(self), Arc::clone(&self.out));
        // In a task of its own, so that a place that was taken is given back even if the caller is dropped.
        let call = tokio::spawn(async move {
            let place = out.acquire_owned().await;
            let answers = calls.together(operations).await;
            drop(place);
            calls.pump();
            answers
        });
        call.await.unwrap_or_default()
    }

    /// Sends what waits, as far as there are places.
    fn pump(self: &Arc<Self>) {
        while let Ok(place) = Arc::clone(&self.out).try_acquire_owned() {
            let jobs = self.lock().take();
            if jobs.is_empty() {
                drop(place);
                // Somebody may have come while the last place was held in vain.
                match self.lock().is_empty() {
                    true => return,
                    false => continue,
                }
            }
            let calls = Arc::clone(self);
            tokio::spawn(async move {
                calls.send(jobs).await;
                drop(place);
                calls.pump();
            });
        }
    }

    async fn send(&self, jobs: Vec<Job>) {
        let (operations, tellers): (Vec<_>, Vec<_>) =
            jobs.into_iter().map(|j| (j.operation, j.teller)).unzip();
        let answers = self.together(operations).await;
        for (teller, answer) in tellers.into_iter().zip(answers) {
            let _ = teller.send(answer);
        }
    }

    /// As one call; what cannot share it gets one of its own.
    async fn together(&self, operations: Vec<Operation>) -> Vec<Answer> {
        let count = operations.len();
        match self.call(&operations).await {
            Ok(together) => {
                let mut answers = Vec::with_capacity(count);
                for (operation, answer) in operations.into_iter().zip(together) {
                    answers.push(match answer {
                        Answer::AskAlone if count > 1 => self.alone(operation).await,
                        answer => answer,
                    });
                }
                answers
            }
            // Too large as a whole.
            Err(fault) if fault.code == FaultCode::Invalid && count > 1 => {
                let mut answers = Vec::with_capacity(count);
                for operation in operations {
                    answers.push(self.alone(operation).await);
                }
                answers
            }
            Err(fault) => (0..count).map(|_| Answer::Fault(fault.clone())).collect(),
        }
    }

    async fn alone(&self, operation: Operation) -> Answer {
        let answers = self.call(std::slice::from_ref(&operation)).await;
        match answers.map(|answers| answers.into_iter().next()) {
            Ok(Some(answer)) => answer,
            Ok(None) => Answer::Fault(fault(FaultCode::Internal, "no answer")),
            Err(fault) => Answer::Fault(fault),
        }
    }

    async fn call(&self, operations: &[Operation]) -> Result<Vec<Answer>, Fault> {
        let client = match operations {
            [Operation::Settle(_)] => &self.upstream,
            _ => &self.gateway,
        };
        let sent = self
            .spoken(client, client.longest(), OPERATIONS_PATH, |wire| {
                Request::encode_all(wire, operations.iter())
            })
            .await;
        read(sent, operations.len())
    }

    /// Waits for the end of an execution; the answer may take this long.
    pub async fn wait(&self, wait: &Wait, longest: Duration) -> Answer {
        let sent = self
            .spoken(&self.gateway, longest, WAIT_PATH, |wire| {
                wait.encode_for(wire)
            })
            .await;
        match read(sent, 1).map(|answers| answers.into_iter().next()) {
            Ok(Some(answer)) => answer,
            Ok(None) => Answer::Fault(fault(FaultCode::Internal, "no answer")),
            Err(fault) => Answer::Fault(fault),
        }
    }

    /// Sends a message in the version that the service understands: one of the release before this one
    /// refuses the newest with 400, before it applies anything.
    async fn spoken(
        &self,
        client: &Client,
        longest: Duration,
        path: &str,
        message: impl Fn(Wire) -> Vec<u8>,
    ) -> Result<HttpAnswer, CallError> {
        let wire = self.dialect().wire(self.now_ns());
        let sent = self.send_message(client, longest, path, message(wire));
        let answer = sent.await?;
        if answer.status != 400 || wire == Wire::One {
            return Ok(answer);
        }
        let older = self.send_message(client, longest, path, message(Wire::One));
        let older = older.await?;
        // What is refused in both versions has another fault.
        if older.status != 400 {
            self.dialect().refused(self.now_ns());
        }
        Ok(older)
    }

    async fn send_message(
        &self,
        client: &Client,
        longest: Duration,
        path: &str,
        message: Vec<u8>,
    ) -> Result<HttpAnswer, CallError> {
        let post = http::Method::POST;
        client
            .send_within(longest, post, path, CONTENT_TYPE, message.into())
            .await
    }

    fn dialect(&self) -> MutexGuard<'_, Dialect> {
        self.dialect.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A clock that does not go back.
    fn now_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}
