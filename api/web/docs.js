// The API's description at /docs: begins the viewer, where it came.

if (window.SwaggerUIBundle) {
  window.SwaggerUIBundle({ url: "/openapi.json", dom_id: "#docs", deepLinking: true });
}
