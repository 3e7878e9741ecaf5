"""Every knob, read from `TAILRACE_*` variables; the unit stands in the name, the reason for a default beside it."""

import re
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.addresses import StoreAddress
from shared.loopback import is_loopback
from shared.principals import ApiKey, SigningKey, parse_chosen, parse_signing_keys
from shared.ring import RingKey, parse_ring


class Settings(BaseSettings):
    """The settings of one process. All processes of an installation must agree on the store and the lease."""

    # What is wrong is named, and never shown: it may be a key.
    model_config = SettingsConfigDict(env_prefix="TAILRACE_", frozen=True, extra="ignore", hide_input_in_errors=True)

    # -- the two stores, which may be one server
    redis_url: str = Field(
        "redis://127.0.0.1:6379/0", repr=False, description="log store: redis://, rediss:// or unix:// URL"
    )
    control_redis_url: str = Field(
        "", repr=False, description="control store (queue, idempotency, indices); empty: the log store"
    )
    redis_password_file: str = Field("", description="the log store's password, for a URL without one")
    control_redis_password_file: str = Field("", description="likewise, where TAILRACE_CONTROL_REDIS_URL is set")
    redis_ca_file: str = Field("", description="PEM: who signs the stores' certificates; empty: whom the system trusts")
    redis_timeout_s: float = Field(5.0, gt=0, description="one command; a frozen store must not hang a process")
    redis_max_connections: int = Field(64, ge=4)
    replicas: int = Field(0, ge=0, description="replicas that must have a create, cancel or end before it is answered")
    queue_name: str = Field("tailrace:queue", min_length=1)

    # -- access
    api_keys: str = Field(
        "", repr=False, description="tenant:key,tenant:key, beside those that `tailrace keys create` makes"
    )
    api_keys_file: str = Field("", description="a file with the same, one a line")

    token_keys: str = Field(
        "",
        repr=False,
        description="kid:secret,kid:secret to sign capability tokens with, the first signs; empty: the store's",
    )
    token_slack_s: float = Field(600.0, ge=0, description="a job's token lives until its deadline and so much longer")

    cors_origins: str = Field(
        "", description="origins whose pages may ask, exact, with commas; empty: none but our own"
    )

    # -- privacy
    encryption_keys: str = Field(
        "",
        repr=False,
        description="kid:key,kid:key to seal stored text with, the first seals, all open; empty: text is not sealed",
    )
    encryption_keys_file: str = Field("", description="a file with more of the same, one a line, behind those")
    provider_keys_file: str = Field(
        "", description="a file of tenant:provider:key, one a line, read anew when it changes; others: the workers' own"
    )

    # -- the API node
    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535)
    max_body_bytes: int = Field(262_144, ge=1024, description="refused while the body is read")
    body_timeout_s: float = Field(10.0, gt=0, description="for a body to come, and a second more for each 8 KB of it")
    max_header_bytes: int = Field(32_768, ge=2048, description="a request's path, query and headers together")
    header_timeout_s: float = Field(10.0, gt=0, description="for them to come, from the connection's first moment on")
    keep_alive_s: int = Field(30, ge=1, description="a connection on which nothing is asked is closed after so long")
    max_connections: int = Field(
        16_000, ge=1, description="of a node, beyond which it refuses new ones; as many readers as one has carried"
    )
    max_queued_jobs: int = Field(10_000, ge=1, description="open jobs beyond which a POST is answered 429")
    heartbeat_s: float = Field(15.0, gt=0, description="silence before a comment line; proxies cut at 60 s")
    reconnect_ms: int = Field(1000, ge=0, description="`retry:` hint for EventSource; its own default is 3 s")
    write_timeout_s: float = Field(20.0, gt=0, description="a reader that takes nothing for so long is dropped")
    tail_tick_s: float = Field(2.0, gt=0, description="a lost notice costs at most so much")
    tail_ring_events: int = Field(2048, ge=16, description="events a node keeps per job that is being read")
    repair_wait_s: float = Field(10.0, ge=0, description="wait for a log that lost its tail to be repaired")
    drain_s: float = Field(8.0, gt=0, description="after SIGTERM; below the 10 s of most supervisors")
    drain_spread_s: float = Field(2.0, ge=0, description="readers are sent away spread over so long")

    # -- limits; shared/limits.py says which of them count only where there are keys. 0: none
    limits_file: str = Field("", description="TOML, or JSON in a file *.json: other limits for some tenants")
    key_requests_per_s: float = Field(100.0, ge=0, description="requests of one key, on all nodes together")
    key_request_burst: int = Field(200, ge=1, description="of one key at once; a page load is a burst")
    key_readers: int = Field(1000, ge=0, description="event streams of one key, on all nodes together")
    key_readers_per_job: int = Field(100, ge=0, description="event streams of one key on one job, on one node")
    key_max_tokens: int = Field(0, ge=0, description="the most that a job may ask for; also for one that names none")
    key_prompt_bytes: int = Field(0, ge=0, description="messages and system as JSON; max_body_bytes holds as well")
    tenant_open_jobs: int = Field(2000, ge=0, description="a fifth of max_queued_jobs: none takes the place of all")
    tenant_running_jobs: int = Field(0, ge=0, description="at once, in all workers; the others wait")
    tenant_tokens_per_day: int = Field(0, ge=0, description="input and output of the jobs of one day, UTC")
    tenant_store_percent: float = Field(
        50.0, ge=0, le=100, description="of the log store's maxmemory, which a tenant's prompts may take while kept"
    )
    failed_auth_per_s: float = Field(50.0, ge=0, description="requests without a valid key, of everybody at one node")
    limit_lease_s: float = Field(10.0, gt=0, description="what a dead node counted for others is forgotten after this")
    max_wait_s: float = Field(0.0, ge=0, description="expected wait for a worker beyond which a POST is answered 503")
    store_full_percent: float = Field(
        85.0, ge=0, le=100, description="of the log store's maxmemory, beyond which a POST is answered 503"
    )

    # -- jobs
    job_deadline_s: float = Field(3600.0, gt=0, description="counted from the POST")
    job_ttl_s: int = Field(3600, ge=1, description="how long a job is kept after its end, unless it says so itself")
    max_job_ttl_s: int = Field(7 * 86_400, ge=1)
    cancel_if_unread_s: int = Field(0, ge=0, description="cancel a job that nobody reads for so long; 0: never")
    max_output_bytes: int = Field(8 * 1024 * 1024, ge=1024)

    # -- the worker
    slots: int = Field(100, ge=1, description="generations at once in one worker process")
    lease_s: float = Field(6.0, gt=0, description="a killed worker's job starts again after at most this + 1 s")
    lease_renew_s: float = Field(2.0, gt=0)
    worker_drain_s: float = Field(5.0, ge=0, description="after SIGTERM, before running jobs are handed over")
    storage_patience_s: float = Field(30.0, gt=0, description="how long a generation goes on without a store")
    first_token_timeout_s: float = Field(120.0, gt=0)
    between_token_timeout_s: float = Field(60.0, gt=0)
    provider_tries: int = Field(3, ge=1, le=10, description="calls before the first token, retried silently")
    retry_base_s: float = Field(0.5, gt=0, description="full jitter: chance × base × 2^n")
    retry_cap_s: float = Field(20.0, gt=0, description="also the longest Retry-After that is waited for")
    retry_budget_percent: float = Field(
        10.0, ge=0, le=100, description="retries a minute to one provider, of the first calls of one worker"
    )
    retry_budget_floor: int = Field(
        10, ge=0, description="retries a minute that need no first calls: the share that 100 calls would give"
    )
    circuit_failures: int = Field(5, ge=0, description="in a row, of one provider's model, open its circuit; 0: never")
    circuit_open_s: float = Field(
        5.0, gt=0, description="before the first probe; doubles with each that fails, jittered"
    )
    circuit_open_max_s: float = Field(60.0, gt=0)
    compact_after_s: float = Field(
        1.0, ge=0, description="after its end a log is rewritten to a sixth of its size; 0: never"
    )
    worker_metrics_host: str = "127.0.0.1"
    worker_metrics_port: int = Field(0, ge=0, le=65535, description="where a worker shows /metrics; 0: nowhere")
    langchain_providers: str = Field(
        "openai,anthropic",
        description="LangChain integrations that a job may name; others may read files or URLs that a message names",
    )
    chains: Annotated[dict[str, str], NoDecode] = Field(
        default_factory=dict, description="LangChain chains and graphs: name=module:attribute,..."
    )

    # -- the tutorial's four endpoints
    chat_model: str = "gpt-4o-mini"
    anthropic_model: str = "claude-haiku-4-5-20251001"
    anthropic_max_tokens: int = Field(1024, ge=1, description="Anthropic's API demands a number")
    langchain_model: str = "openai:gpt-4o-mini"

    scripted_faults: bool = Field(
        False, description="let API keys' holders ask the scripted provider for faults; open nodes always do"
    )

    # -- the embedded server and the processes of `tailrace up`
    data_dir: Path = Path(".tailrace")
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$")
    log_format: str = Field(
        "auto", pattern="^(auto|json|text)$", description="auto: text on a terminal, one JSON object a line elsewhere"
    )

    @field_validator("chains", mode="before")
    @classmethod
    def _split_chains(cls, value: object) -> object:
        """`support=myapp.chains:support,other=...` into a table; ValueError names the part that is wrong."""
        if not isinstance(value, str):
            return value
        pairs: dict[str, str] = {}
        for part in filter(None, (piece.strip() for piece in value.split(","))):
            name, mark, target = part.partition("=")
            module, _, attribute = target.strip().partition(":")
            if not (mark and name.strip() and module.strip() and attribute.strip()):
                raise ValueError(f"{part!r} is not name=module:attribute")
            pairs[name.strip()] = target.strip()
        return pairs

    @field_validator("cancel_if_unread_s")
    @classmethod
    def _nodes_get_a_word_in(cls, value: int) -> int:
        """Nodes say once a second who is read; ValueError for less than two of them."""
        if value == 1:
            raise ValueError("is 0 (never) or at least 2")
        return value

    @model_validator(mode="after")
    def _leases_are_renewed_in_time(self) -> Self:
        """A lease must outlive two renewals: one may be late or lost."""
        if self.lease_renew_s * 2 > self.lease_s:
            raise ValueError("TAILRACE_LEASE_RENEW_S must be at most half of TAILRACE_LEASE_S")
        return self

    @property
    def chosen_keys(self) -> dict[str, ApiKey]:
        """The keys of `api_keys` and of `api_keys_file`, by digest. ValueError for a part that is not tenant:key, and
        for a file that cannot be read."""
        table = parse_chosen(self.api_keys, "TAILRACE_API_KEYS")
        if self.api_keys_file:
            try:
                text = Path(self.api_keys_file).read_text()
            except (OSError, UnicodeDecodeError) as error:
                raise ValueError(f"TAILRACE_API_KEYS_FILE cannot be read: {type(error).__name__}") from None
            for digest, key in parse_chosen(text or "\n", "TAILRACE_API_KEYS_FILE").items():
                if table.setdefault(digest, key).tenant != key.tenant:
                    raise ValueError("TAILRACE_API_KEYS and TAILRACE_API_KEYS_FILE give one key to two tenants")
        return table

    @property
    def encryption_ring(self) -> list[RingKey]:
        """The keys of `encryption_keys`, then those of its file. ValueError for what is none, and for a file that
        cannot be read."""
        text = self.encryption_keys
        if self.encryption_keys_file:
            try:
                text += "\n" + Path(self.encryption_keys_file).read_text()
            except (OSError, UnicodeDecodeError) as error:
                raise ValueError(f"TAILRACE_ENCRYPTION_KEYS_FILE cannot be read: {type(error).__name__}") from None
            if not parse_ring(text, "TAILRACE_ENCRYPTION_KEYS"):
                raise ValueError("TAILRACE_ENCRYPTION_KEYS_FILE holds no key, and nothing would be sealed.")
        return parse_ring(text, "TAILRACE_ENCRYPTION_KEYS")

    @property
    def signing_keys(self) -> list[SigningKey]:
        """The keys of `token_keys`. ValueError for a part that is not kid:secret."""
        return parse_signing_keys(self.token_keys, "TAILRACE_TOKEN_KEYS")

    @property
    def allowed_origins(self) -> frozenset[str]:
        """The origins of `cors_origins`. ValueError for what is none: a scheme and a host, and nothing behind."""
        origins = frozenset(filter(None, (part.strip() for part in self.cors_origins.split(","))))
        for origin in origins:
            if not re.fullmatch(r"https?://[A-Za-z0-9.\-\[\]:]+", origin):
                raise ValueError(f"TAILRACE_CORS_ORIGINS: {origin!r} is not like https://app.example")
        return origins

    @property
    def on_loopback(self) -> bool:
        """Whether nobody beyond this machine can reach a node that listens on `host`."""
        return is_loopback(self.host)

    @property
    def log_store(self) -> StoreAddress:
        """Where the log store is. ValueError for a URL that is none, or a file that cannot be used."""
        return StoreAddress.parse(
            self.redis_url,
            name="TAILRACE_REDIS_URL",
            password_file=self.redis_password_file,
            ca_file=self.redis_ca_file,
        )

    @property
    def control_store(self) -> StoreAddress:
        """Where the control store is. ValueError as for the log store."""
        if not self.control_redis_url:
            return self.log_store
        return self.control_store_at(self.control_redis_url, "TAILRACE_CONTROL_REDIS_URL")

    def control_store_at(self, url: str, name: str) -> StoreAddress:
        """The control store under the URL `url`, which was given as `name`: the files that open it are the settings'.
        ValueError as for the log store."""
        of = "CONTROL_" if self.control_redis_url or self.control_redis_password_file else ""
        return StoreAddress.parse(
            url,
            name=name,
            password_file=self.control_redis_password_file if of else self.redis_password_file,
            file_setting=f"TAILRACE_{of}REDIS_PASSWORD_FILE",
            ca_file=self.redis_ca_file if url.startswith("rediss:") else "",
        )

    @property
    def control_url(self) -> str:
        """The control store's URL."""
        return self.control_redis_url or self.redis_url


@lru_cache(maxsize=1)
def load_settings() -> Settings:
    """This process's settings, read once. pydantic's ValidationError names the variable that is wrong."""
    return Settings()
