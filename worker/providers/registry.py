"""Which providers there are, and when each is loaded: at its first call, not before."""

import asyncio
import importlib
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress

from shared.errors import ProviderError
from shared.jobs import Upstream
from shared.params import PROVIDERS, param_names
from shared.settings import Settings
from worker.providers.base import Call, Cancels, Piece, Provider, pour
from worker.providers.credentials import ProviderKeys
from worker.providers.failures import classify
from worker.providers.scripted import ScriptedProvider

_LATE = {
    "openai": "OpenAIProvider",
    "anthropic": "AnthropicProvider",
    "langchain": "LangChainProvider",
}
_NEEDS = {"openai": ("OPENAI_API_KEY", "OPENAI_BASE_URL"), "anthropic": ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL")}


class _Late:
    """A provider that is imported at its first call, and in a thread.

    A vendor's SDK takes up to two seconds to import: a worker that never calls it must not wait for it, and one that
    is generating must go on renewing its leases meanwhile.
    """

    def __init__(self, name: str, settings: Settings, keys: ProviderKeys) -> None:
        self.name = name
        self._settings = settings
        self._keys = keys
        self._params = param_names(name)
        self._provider: Provider | None = None
        self._loading = asyncio.Lock()

    async def load(self) -> Provider:
        """Import and make the provider, once. ProviderError(provider_not_configured) if that fails."""
        async with self._loading:
            if self._provider is None:
                try:
                    self._provider = await asyncio.to_thread(_make, self.name, self._settings, self._keys)
                except Exception as error:
                    raise ProviderError(
                        "provider_not_configured",
                        f"The provider {self.name} cannot be loaded: check the workers' installation.",
                        detail=classify(error, started=False).detail,
                    ) from None
        return self._provider

    async def stream(self, call: Call) -> AsyncGenerator[Piece, None]:
        """The pieces of one answer; see Provider.stream."""
        self._refuse(call)
        provider = self._provider or await self.load()
        async with aclosing(provider.stream(call)) as pieces:
            async for piece in pieces:
                yield piece

    async def pour(self, call: Call, take: Callable[[Piece], bool]) -> None:
        """The same without a task's turn for each piece, where the provider can; see Pours."""
        self._refuse(call)
        await pour(self._provider or await self.load(), call, take)

    def _refuse(self, call: Call) -> None:
        """Adapters hand `params` on to their SDKs, where some names are options of the transport: URLs, headers, keys.
        The edge has refused these; here nothing gets through that came into the store by another way."""
        if not self._params.issuperset(call.params):
            raise ProviderError("provider_rejected", "`params` has a name that is not on the provider's list.")

    async def cancel(self, upstream: Upstream, tenant: str) -> None:
        """End a generation, where the provider has such; see Cancels."""
        provider = self._provider or await self.load()
        if isinstance(provider, Cancels):
            await provider.cancel(upstream, tenant)

    async def aclose(self) -> None:
        """Close the provider if it was ever made."""
        if self._provider is not None:
            await self._provider.aclose()


def build_providers(settings: Settings) -> dict[str, Provider]:
    """All providers by name, in the order of PROVIDERS. Nothing is imported and nothing connected yet.

    TailraceError where the file of tenants' keys cannot be read.
    """
    keys = ProviderKeys(settings.provider_keys_file)
    return {name: _Late(name, settings, keys) if name in _LATE else ScriptedProvider() for name in PROVIDERS}


async def warm_up(providers: dict[str, Provider]) -> None:
    """Load the providers that the environment has a key or a URL for, so that the first job does not wait for it."""
    for name, variables in _NEEDS.items():
        provider = providers.get(name)
        if isinstance(provider, _Late) and any(os.environ.get(variable) for variable in variables):
            with suppress(ProviderError):  # its jobs will say so
                await provider.load()


async def close_providers(providers: dict[str, Provider]) -> None:
    """Close them all."""
    await asyncio.gather(*(provider.aclose() for provider in providers.values()))


def _make(name: str, settings: Settings, keys: ProviderKeys) -> Provider:
    module = importlib.import_module(f"worker.providers.{name}")
    provider: Provider = getattr(module, _LATE[name])(settings, keys)
    return provider
