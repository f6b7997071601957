import java.io.FileInputStream;
import java.io.InputStream;
import java.io.Reader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.Key;
import java.security.KeyStore;
import java.security.cert.Certificate;
import java.util.Base64;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import java.util.TreeMap;
import org.apache.kafka.common.config.types.Password;
import org.apache.kafka.common.security.JaasContext;
import org.apache.kafka.common.security.ssl.DefaultSslEngineFactory;
import org.springframework.boot.env.PropertiesPropertySourceLoader;
import org.springframework.boot.env.PropertySourceLoader;
import org.springframework.boot.env.YamlPropertySourceLoader;
import org.springframework.core.env.EnumerablePropertySource;
import org.springframework.core.env.MutablePropertySources;
import org.springframework.core.env.PropertySource;
import org.springframework.core.env.PropertySourcesPropertyResolver;
import org.springframework.core.io.FileSystemResource;

/** What Java's programs read: Java itself, Spring Boot's loaders, Kafka's clients. Each argument is READER=FILE, each answer a line of JSON. */
public class Readers {
    public static void main(String[] arguments) throws Exception {
        for (String argument : arguments) {
            String[] parts = argument.split("=", 2);
            Path file = Path.of(parts[1]);
            Map<String, String> read = switch (parts[0]) {
                case "kafka" -> kafka(file);
                case "properties" -> properties(file);
                case "spring-properties" -> spring(new PropertiesPropertySourceLoader(), file);
                case "spring-yaml" -> spring(new YamlPropertySourceLoader(), file);
                case "snakeyaml" -> snakeyaml(file);
                default -> throw new IllegalArgumentException(argument);
            };
            System.out.println(json(read));
        }
    }

    /** By a stream, which is ISO-8859-1, and by a reader of UTF-8: both read the same. */
    static Map<String, String> properties(Path file) throws Exception {
        Properties bytes = new Properties();
        Properties text = new Properties();
        try (InputStream in = new FileInputStream(file.toFile()); Reader reader = Files.newBufferedReader(file, StandardCharsets.UTF_8)) {
            bytes.load(in);
            text.load(reader);
        }
        if (!bytes.equals(text)) throw new IllegalStateException(file + ": is read in two ways");
        Map<String, String> read = new TreeMap<>();
        bytes.forEach((name, value) -> read.put((String) name, (String) value));
        return read;
    }

    /** With placeholders resolved, as an application gets them. */
    static Map<String, String> spring(PropertySourceLoader loader, Path file) throws Exception {
        MutablePropertySources sources = new MutablePropertySources();
        for (PropertySource<?> source : loader.load("file", new FileSystemResource(file))) sources.addLast(source);
        PropertySourcesPropertyResolver resolver = new PropertySourcesPropertyResolver(sources);
        Map<String, String> read = new TreeMap<>();
        for (PropertySource<?> source : sources) {
            for (String name : ((EnumerablePropertySource<?>) source).getPropertyNames()) read.put(name, resolver.getProperty(name));
        }
        return read;
    }

    static Map<String, String> snakeyaml(Path file) throws Exception {
        Map<String, String> read = new TreeMap<>();
        try (Reader reader = Files.newBufferedReader(file, StandardCharsets.UTF_8)) {
            Map<?, ?> all = new org.yaml.snakeyaml.Yaml().load(reader);
            all.forEach((name, value) -> read.put((String) name, (String) value));
        }
        return read;
    }

    /** The login as Kafka's client has it, and the key, the chain and the trusted certificates that it loads. Its files are beside this one. */
    static Map<String, String> kafka(Path file) throws Exception {
        Map<String, Object> settings = new HashMap<>(properties(file));
        settings.put("sasl.jaas.config", new Password((String) settings.get("sasl.jaas.config")));
        for (String name : new String[] {"ssl.keystore.location", "ssl.truststore.location"}) {
            settings.put(name, file.resolveSibling(((String) settings.get(name)).replace("/secrets/", "")).toString());
        }
        settings.put("ssl.protocol", "TLSv1.3");
        Map<String, String> read = new TreeMap<>();
        JaasContext.loadClientContext(settings).configurationEntries().get(0).getOptions().forEach((name, value) -> read.put(name, (String) value));
        try (DefaultSslEngineFactory engines = new DefaultSslEngineFactory()) {
            engines.configure(settings);
            KeyStore keys = engines.keystore();
            String alias = keys.aliases().nextElement();
            Key key = keys.getKey(alias, null);
            read.put("key", pem("PRIVATE KEY", key.getEncoded()));
            StringBuilder chain = new StringBuilder();
            for (Certificate certificate : keys.getCertificateChain(alias)) chain.append(pem("CERTIFICATE", certificate.getEncoded()));
            read.put("chain", chain.toString());
            KeyStore trusted = engines.truststore();
            read.put("ca", pem("CERTIFICATE", trusted.getCertificate(trusted.aliases().nextElement()).getEncoded()));
        }
        return read;
    }

    static String pem(String kind, byte[] bytes) {
        String lines = Base64.getMimeEncoder(64, "\n".getBytes()).encodeToString(bytes);
        return "-----BEGIN " + kind + "-----\n" + lines + "\n-----END " + kind + "-----\n";
    }

    static String json(Map<String, String> read) {
        StringBuilder text = new StringBuilder("{");
        read.forEach((name, value) -> text.append(text.length() > 1 ? "," : "").append(quoted(name)).append(":").append(quoted(value)));
        return text.append("}").toString();
    }

    static String quoted(String value) {
        StringBuilder text = new StringBuilder("\"");
        for (char c : value.toCharArray()) {
            if (c >= ' ' && c <= '~' && c != '"' && c != '\\') text.append(c);
            else text.append(String.format("\\u%04x", (int) c));
        }
        return text.append('"').toString();
    }
}
